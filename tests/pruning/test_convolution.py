"""The closed form for convolutions, against what is written out in full."""

import functools

import pytest
import torch

from greedyprune import build_model
from greedyprune.models.batch import pad_images
from greedyprune.pruning.convolution import (
    ConvolutionCut,
    calibrate_backbone,
    group_selection,
    reading_convolution,
    unfold,
)
from greedyprune.pruning.cut import cut_tensors
from greedyprune.pruning.moments import Moments
from greedyprune.pruning.refit import RIDGE
from greedyprune.pruning.selection import forward_selection
from greedyprune.pruning.sites import list_sites
from greedyprune.pruning.transplant import masked, replaced, transplant

SHAPE = {"hidden_dim": 32, "heads": 4, "enc_layers": 1, "dec_layers": 1, "ffn_dim": 40, "num_queries": 7}
# One block of each kind, whose reader has a stride in the bottleneck.
SITES = {
    "small": ["backbone.0.conv1"],
    "resnet18": ["backbone.2.conv1"],
    "resnet50": ["backbone.3.conv1", "backbone.3.conv2"],
}
BATCHES = [[torch.randn(3, 64, 96), torch.randn(3, 45, 70)] for _ in range(3)]


@functools.cache
def calibrated(backbone: str):
    """A model, the cuts of some of its sites, and what the readers of those unfold, padding left out."""
    torch.manual_seed(0)
    model = build_model("dn_detr", num_classes=3, backbone=backbone, **SHAPE)
    for module in model.backbone.modules():
        if hasattr(module, "running_var"):
            shape = module.running_var.shape
            with torch.no_grad():
                module.weight.copy_(torch.rand(shape) * 0.5 + 0.3)
                module.bias.copy_(torch.randn(shape) * 0.2)
            module.running_mean.copy_(torch.randn(shape) * 0.1)
    model.eval()
    sites = [site for site in list_sites(model, "backbone") if site.name in SITES[backbone]]
    moments = calibrate_backbone(model, sites, BATCHES, positions=10_000)
    rows = {site.name: [] for site in sites}

    def collect(name, module, args, result):
        stride = 64 // result.shape[-2]
        mask = pad_images(BATCHES[0]).mask[:, ::stride, ::stride]
        for columns, padding in zip(unfold(module, args[0]), mask, strict=True):
            rows[name].append(columns[:, ~padding.flatten()].T.double())

    hooks = [
        reading_convolution(model, site).register_forward_hook(functools.partial(collect, site.name)) for site in sites
    ]
    with torch.inference_mode():
        for batch in BATCHES:
            model(batch)
    for hook in hooks:
        hook.remove()
    state = model.state_dict()
    cuts = [ConvolutionCut(site, state, moments[site.name]) for site in sites]
    return model, cuts, {name: torch.cat(parts).clone() for name, parts in rows.items()}


def features(model):
    with torch.inference_mode():
        return model.features(BATCHES[0]).tokens


def weights(cut):
    return cut.state[next(part.name for part in cut.site.slices if part.output)].double().flatten(1)


@pytest.mark.parametrize("backbone", SITES)
def test_moments_are_those_of_the_unfolded_input_without_padding(backbone: str) -> None:
    model, cuts, rows = calibrated(backbone)
    for cut in cuts:
        explicit = rows[cut.site.name]
        assert cut.moments.weight == len(explicit)
        assert torch.allclose(cut.moments.mean, explicit.mean(0), atol=1e-6)
        assert torch.allclose(cut.moments.covariance, torch.cov(explicit.T, correction=0), atol=1e-5)
        some = calibrate_backbone(model, [cut.site], BATCHES, positions=20)[cut.site.name]
        again = calibrate_backbone(model, [cut.site], BATCHES, positions=20)[cut.site.name]
        assert some.weight == 3 * 2 * 20
        assert torch.equal(some.covariance, again.covariance)


def test_the_order_is_that_of_a_greedy_search_which_fits_every_candidate() -> None:
    generator = torch.Generator().manual_seed(3)
    channels, taps = 7, 4
    rows = torch.randn(200, channels * taps, generator=generator, dtype=torch.float64)
    rows = rows @ torch.randn(channels * taps, channels * taps, generator=generator, dtype=torch.float64)
    rows -= rows.mean(0)
    weight = torch.randn(5, channels * taps, generator=generator, dtype=torch.float64)
    output = rows @ weight.T
    chosen: list[int] = []
    gains = []
    unexplained = output.square().sum() / len(rows)
    for _ in range(channels):
        errors = {}
        for candidate in set(range(channels)) - set(chosen):
            columns = [c * taps + tap for c in [*chosen, candidate] for tap in range(taps)]
            fitted = torch.linalg.lstsq(rows[:, columns], output).solution
            errors[candidate] = (output - rows[:, columns] @ fitted).square().sum() / len(rows)
        best = min(errors, key=errors.__getitem__)
        chosen.append(best)
        gains.append(unexplained - errors[best])
        unexplained = errors[best]
    order, gain = group_selection(rows.T @ rows / len(rows), weight, taps)
    assert order.tolist() == chosen
    assert torch.allclose(gain, torch.stack(gains), rtol=1e-6, atol=1e-6 * float(gain.max()))


def test_with_one_tap_it_is_the_selection_of_channels_and_dead_ones_come_last() -> None:
    rows = torch.randn(100, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows[:, 4] = 0
    weight = torch.randn(6, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    covariance = torch.cov(rows.T)
    order, gain = group_selection(covariance, weight, 1)
    alone, gain_alone = forward_selection(covariance, weight)
    assert order.tolist() == alone.tolist()
    assert order[-1] == 4
    assert torch.allclose(gain, gain_alone, rtol=1e-6)


def test_a_channel_that_others_express_comes_last_and_gains_nothing() -> None:
    rows = torch.randn(100, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows[:, 5] = rows[:, 2] - 2 * rows[:, 3]
    weight = torch.randn(6, 18, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    order, gain = group_selection(torch.cov(rows.flatten(1).T), weight, 3)
    assert order[-1] in (2, 3, 5)
    assert gain[-1] == 0
    assert gain[-2] > 0


@pytest.mark.parametrize("backbone", SITES)
def test_the_refit_is_the_least_squares_solution_over_the_unfolded_matrix(backbone: str) -> None:
    _, cuts, rows = calibrated(backbone)
    for cut in cuts:
        width = cut.site.width // 2
        tensors = cut.tensors(width)
        output = next(part.name for part in cut.site.slices if part.output)
        columns = [c * cut.taps + tap for c in cut.kept(width) for tap in range(cut.taps)]
        explicit, dense = rows[cut.site.name], weights(cut)
        answer = explicit @ dense.T
        x, y = explicit[:, columns], answer - answer.mean(0)
        centred = x - x.mean(0)
        # Ridge regression is least squares with a row for every weight, which asks it to stay as it is.
        ridge = (RIDGE * centred.square().sum(0).mean()).sqrt() * torch.eye(len(columns), dtype=x.dtype)
        fitted = torch.linalg.lstsq(torch.cat((centred, ridge)), torch.cat((y, ridge @ dense[:, columns].T))).solution.T
        found = tensors[output].double().flatten(1)
        assert torch.allclose(found, fitted, atol=1e-3 * float(fitted.abs().max()))
        mean = f"{output.removesuffix('.weight').replace('conv', 'bn')}.running_mean"
        shift = answer.mean(0) - x.mean(0) @ fitted.T
        assert torch.allclose(cut.state[mean].double() - tensors[mean], shift, atol=1e-4)


@pytest.mark.parametrize("backbone", SITES)
def test_full_widths_change_nothing(backbone: str) -> None:
    model, cuts, _ = calibrated(backbone)
    tensors = cut_tensors({cut.site.name: cut for cut in cuts}, {cut.site.name: cut.site.width for cut in cuts})
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in tensors.items())
    before = features(model)
    with replaced(model, tensors):
        assert torch.equal(features(model), before)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("backbone", SITES)
def test_a_cut_answers_as_the_dense_model_with_the_new_weights_and_the_rest_off(backbone: str, share: float) -> None:
    model, cuts, _ = calibrated(backbone)
    widths = {cut.site.name: max(1, int(cut.site.width * share)) for cut in cuts}
    kept = {cut.site.name: cut.kept(widths[cut.site.name]) for cut in cuts}
    tensors = cut_tensors({cut.site.name: cut for cut in cuts}, widths)
    twin = transplant(model, {})
    state = twin.state_dict()
    for cut in cuts:
        output = next(part.name for part in cut.site.slices if part.output)
        mean = f"{output.removesuffix('.weight').replace('conv', 'bn')}.running_mean"
        alone = cut.tensors(widths[cut.site.name])
        state[output][:, list(kept[cut.site.name])] = alone[output]
        state[mean].copy_(alone[mean])
    expected = features(masked(twin, kept))
    with replaced(model, tensors):
        found = features(model)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    slim = type(model)(model.options, model.cfgs.replace(widths)).eval()
    slim.load_state_dict({**model.state_dict(), **tensors})
    assert torch.allclose(features(slim), expected, atol=1e-4 * float(expected.abs().max()))


def test_moments_of_no_image_are_zero() -> None:
    model, cuts, _ = calibrated("small")
    moments = calibrate_backbone(model, [cuts[0].site], [])[cuts[0].site.name]
    assert isinstance(moments, Moments)
    assert moments.weight == 0
    assert not moments.covariance.any()
