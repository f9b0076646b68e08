"""What meters count is what the readers of a site get, over all images, padding left out."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.models.layers import DotProductAttention
from greedyprune.pruning import calibrate as calibration
from greedyprune.pruning import sensitivity
from greedyprune.pruning.calibrate import calibrate
from greedyprune.pruning.kinds import reading
from greedyprune.pruning.kinds.reading import unfold
from greedyprune.pruning.transplant import shape_change

from ...helpers.engine import GRID, Subject, shared

KINDS = ("dn_detr", "deformable, two stages", "deformable encoder, level by level", GRID)


def image_tokens(one: Subject, images: list[Tensor], tokens: Tensor) -> Tensor:
    """`[B, N]`: where the tokens of an encoder, or of proposals, are of the image; all queries are."""
    shown = None
    if one.family.name == "DETR" and any(image.shape != images[0].shape for image in images):
        features = one.model.features(one.family.inputs(one.model, images))
        if features.tokens.shape[1] == tokens.shape[1]:
            shown = features.shown[:, 0, 0] if features.levels is None else features.levels.shown
    return torch.ones(tokens.shape[:2], dtype=torch.bool) if shown is None else shown


def image_cells(one: Subject, images: list[Tensor], cells: Tensor) -> Tensor:
    """`[B, h, w]`: where a map is of the image."""
    shown = torch.zeros(len(images), cells.shape[2], cells.shape[3], dtype=torch.bool)
    stride = max(image.shape[1] for image in images) // cells.shape[2]
    for own, image in zip(shown, images, strict=True):
        own[: -(-image.shape[1] // stride), : -(-image.shape[2] // stride)] = True
    return shown


@contextmanager
def given_to(one: Subject, names: set[str]) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Of every call of some modules their input and output, for the time being."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    with ExitStack() as stack:
        for name in names:

            def watch(module: nn.Module, args: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                seen[name].append((args[0], output))

            stack.callback(one.model.get_submodule(name).register_forward_hook(watch).remove)
        yield seen


def even(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "TOKEN_SHARE", 0.0)
    monkeypatch.setattr(reading, "POSITIONS", 10**9)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_of_readers_are_those_of_all_rows_that_they_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    even(monkeypatch)
    one = shared(kind)
    sites = [site for site in one.sites if site.kind != "count" and "backbone.1" not in site.name]
    batches = one.batches(2)
    moments = calibrate(one.activations(batches, sites), sites)
    rows: dict[str, list[Tensor]] = {}
    for images, _ in batches.iterate():
        with given_to(one, {each.reader.module for site in sites for each in moments[site.name].readers}) as seen:
            one.answer(images=images)
        for name, calls in seen.items():
            layer = one.model.get_submodule(name)
            for given, output in calls:
                if isinstance(layer, nn.Conv2d):
                    shown = image_cells(one, images, output)
                    parts = [
                        columns[:, own.flatten()].T for columns, own in zip(unfold(layer, given), shown, strict=True)
                    ]
                    rows.setdefault(name, []).extend(parts)
                else:
                    rows.setdefault(name, []).append(given[image_tokens(one, images, output)])
    for site in sites:
        for each in moments[site.name].readers:
            expected = torch.cat(rows[each.reader.module]).double().numpy()
            assert each.rows.weight == pytest.approx(len(expected)), site.name
            scale = np.abs(expected).max()
            assert np.allclose(each.rows.mean, expected.mean(0), atol=1e-4 * scale), site.name
            assert np.allclose(each.rows.covariance, np.cov(expected.T, ddof=0), atol=1e-4 * scale**2), site.name


def test_a_convolution_looks_at_some_positions_of_every_image_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "POSITIONS", 5)
    one = shared()
    sites = one.part("backbone")[1:2]
    first, again = (calibrate(one.activations(sites=sites), sites)[sites[0].name].readers[0] for _ in range(2))
    assert first.rows.weight == 6 * 5
    assert torch.equal(first.rows.covariance, again.rows.covariance)
    assert first.power is None


def loss_of(answer: Answer) -> Tensor:
    """Something that every layer and query has a part in."""
    weights = (torch.arange(layer.logits.numel()).view_as(layer.logits).cos() for layer in answer.layers())
    pairs = zip(answer.layers(), weights, strict=True)
    return sum((layer.logits * weight).sum() + (layer.boxes.sin() * 9).sum() for layer, weight in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_output_channels_count_by_the_gradients_of_what_readers_give(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "TOKEN_SHARE", 1.0)
    monkeypatch.setattr(reading, "POSITIONS", 10**9)
    monkeypatch.setattr(
        calibration,
        "answer_gradients",
        lambda answer, places, draw: [
            [torch.zeros_like(p) if g is None else g for p, g in zip(places, grads, strict=True)]
            for grads in [torch.autograd.grad(loss_of(answer), places, allow_unused=True)]
        ],
    )
    one = shared(kind)
    sites = [site for site in one.sites if site.kind != "count" and site.part != "backbone"]
    batches = one.batches(1)
    moments = calibrate(one.activations(batches, sites), sites)
    images = batches.batches[0][0]
    names = {each.reader.module for site in sites for each in moments[site.name].readers}
    with given_to(one, names) as seen, torch.enable_grad():
        answer = one.family.answer(one.model, one.family.inputs(one.model, images))
    outputs = [output for calls in seen.values() for _, output in calls]
    gradients = iter(torch.autograd.grad(loss_of(answer), outputs, allow_unused=True))
    for name, calls in seen.items():
        layer = one.model.get_submodule(name)
        power, weighted, total = 0.0, 0.0, 0.0
        for (given, output), gradient in ((call, next(gradients)) for call in calls):
            gradient = torch.zeros_like(output) if gradient is None else gradient
            if isinstance(layer, nn.Conv2d):
                given, gradient = unfold(layer, given).mT, gradient.flatten(2).mT
                shown = torch.ones(given.shape[:2])
            else:
                shown = image_tokens(one, images, output).float()
            power = power + torch.einsum("bni,bnj->ij", gradient, gradient)
            for rows, own, where in zip(given, gradient.square().sum(-1), shown, strict=True):
                weights = where if not (own * where).any() else own * where / (own * where).sum() * where.sum()
                weighted = weighted + (weights[:, None] * rows).T @ rows
                total += weights.sum()
        (each,) = (r for site in sites for r in moments[site.name].readers if r.reader.module == name)
        found = each.rows.covariance + torch.outer(each.rows.mean, each.rows.mean)
        assert torch.allclose(each.power.float(), power, rtol=1e-3, atol=1e-3 * float(power.max())), name
        assert torch.allclose(found.float(), weighted / total, rtol=1e-3, atol=1e-3 * float(weighted.max() / total)), (
            name
        )


@pytest.mark.parametrize("kind", ["dn_detr", "deformable"])
def test_queries_and_keys_count_by_the_gradients_of_their_logits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "TOKEN_SHARE", 1.0)
    monkeypatch.setattr(
        calibration,
        "answer_gradients",
        lambda answer, places, draw: [list(torch.autograd.grad(loss_of(answer), places))],
    )
    one = shared(kind)
    sites = [site for site in one.sites if site.kind == "attention"]
    batches = one.batches(1)
    moments = calibrate(one.activations(batches, sites), sites)
    seen: dict[int, list[tuple[Tensor, Tensor, Tensor, Tensor | None]]] = {}

    def attend(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, shown: Tensor | None) -> Tensor:
        logits = q @ k.mT / q.shape[-1] ** 0.5
        seen.setdefault(id(module), []).append((q, k, logits, shown))
        return (logits if shown is None else logits.masked_fill(~shown, -torch.inf)).softmax(-1) @ v

    monkeypatch.setattr(DotProductAttention, "forward", attend)
    images = batches.batches[0][0]
    with torch.enable_grad():
        answer = one.family.answer(one.model, one.family.inputs(one.model, images))
    gradients = iter(torch.autograd.grad(loss_of(answer), [call[2] for calls in seen.values() for call in calls]))
    tested = count()
    for core, calls in seen.items():
        (site,) = (site for site in sites if site.core and id(one.model.get_submodule(site.core)) == core)
        found, width = moments[site.name], site.group_width
        assert len(found.queries) == len(found.keys) == site.products
        by_call = [(call, next(gradients)) for call in calls]
        if max(gradient.abs().max() for _, gradient in by_call) < 1e-6:
            continue  # queries that are all the same: it makes no difference which of them one looks at
        for product in range(site.products):
            part = slice(product * width, (product + 1) * width)
            for head in range(site.groups):
                sums, weights = [0.0, 0.0], [0.0, 0.0]
                for (q, k, _, shown), gradient in by_call:
                    for image in range(len(images)):
                        power = gradient[image, head].square()  # [N, M]
                        rows = q[image, head, :, part], k[image, head, :, part]
                        there = (
                            image_tokens(one, images, q[:, 0])[image],
                            torch.ones(len(rows[1])) if shown is None else shown[image, 0, 0],
                        )
                        for side, (own, valid) in enumerate(zip(rows, there, strict=True)):
                            weight = power.sum(1 - side) * valid
                            weight = weight / weight.sum() * valid.sum()
                            own = own - weight @ own / weight.sum() if side else own
                            sums[side] = sums[side] + (weight[:, None] * own).T @ own
                            weights[side] = weights[side] + weight.sum()
                for side, each in enumerate((found.queries[product], found.keys[product])):
                    expected = sums[side] / weights[side]
                    assert torch.allclose(
                        each.moment[head].float(), expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max())
                    )
                    next(tested)
    assert next(tested) > 20


def test_padded_batches_count_as_their_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    even(monkeypatch)
    one = shared()
    sites = one.part("encoder")
    together = one.batches(1)
    images, targets = together.batches[0]
    alone = type(together)(*(([image], [target]) for image, target in zip(images, targets, strict=True)))
    padded, exact = (calibrate(one.activations(batches, sites), sites) for batches in (together, alone))
    for site in sites:
        mine, theirs = padded[site.name].readers[0].rows, exact[site.name].readers[0].rows
        assert mine.weight == pytest.approx(theirs.weight)
        assert (mine.covariance - theirs.covariance).norm() < 1e-3 * theirs.covariance.norm()
        for queries, own in zip(padded[site.name].keys, exact[site.name].keys, strict=True):
            assert (queries.moment - own.moment).norm() < 1e-3 * own.moment.norm()


@pytest.mark.parametrize("room", [0, 10**9])
def test_moments_are_the_same_whatever_was_tried_before_and_whatever_is_cached(room: int) -> None:
    one = shared()
    sites = one.part("encoder", "decoder")
    fresh, used = one.activations(sites=sites), one.activations(sites=sites, room=room)
    for _ in used.answers(shape_change(sites, used.bench.state, {"decoder.2.ffn": 8})):
        pass
    first, second = (calibrate(images, sites) for images in (fresh, used))
    for site in sites:
        for mine, theirs in zip(first[site.name].readers, second[site.name].readers, strict=True):
            assert torch.allclose(mine.rows.covariance, theirs.rows.covariance, rtol=1e-3, atol=1e-5)
            assert mine.rows.weight == pytest.approx(theirs.rows.weight)
