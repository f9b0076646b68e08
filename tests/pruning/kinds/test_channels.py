"""Kept channels, and readers that are solved again, against regressions on the rows themselves."""

import pytest
import torch
from torch import Tensor, nn

from greedyprune.pruning import scorers
from greedyprune.pruning.cutter import Cutter
from greedyprune.pruning.kinds import kind_of
from greedyprune.pruning.kinds.channels import KeptCut, SiteMoments, by_group, channels_of, refitted
from greedyprune.pruning.kinds.readers import ReaderMoments
from greedyprune.pruning.kinds.reading import unfold
from greedyprune.pruning.moments import Moments
from greedyprune.pruning.refit import RIDGE
from greedyprune.pruning.scorers.select import selected
from greedyprune.pruning.transplant import masked, transplant
from greedyprune.sites import AttentionSite, Change, HiddenSite, Reader, Slice, installed

from ...helpers.engine import GRID, bits, farthest, shared, unchanged


def layers(convolution: bool, bias: bool, norm: bool) -> tuple[nn.Sequential, Tensor]:
    """A reader of 6 channels, maybe with a batch norm after it, and what it reads."""
    torch.manual_seed(0)
    reader: nn.Module = nn.Conv2d(6, 5, 3, 2, 1, bias=bias) if convolution else nn.Linear(6, 5, bias=bias)
    last = nn.BatchNorm2d(5) if norm else nn.Identity()
    if norm:
        last.running_mean.normal_()
        last.running_var.uniform_(0.5, 2)
        last.weight.data.uniform_(0.5, 2)
    x = torch.randn(4, 6, 9, 7) if convolution else torch.randn(4, 30, 6)
    x = x + 0.7 * x.roll(1, 1 if convolution else 2) + 2
    return nn.Sequential(reader, last).eval(), x


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("convolution", [False, True])
def test_a_reader_is_the_ridge_regression_on_the_rows(convolution: bool, bias: bool, norm: bool) -> None:
    if norm and not convolution:
        pytest.skip("a batch norm comes after convolutions")
    model, x = layers(convolution, bias, norm)
    rows = (unfold(model[0], x).mT if convolution else x).flatten(0, 1)
    moments = Moments(rows.shape[1])
    moments.add(rows, torch.ones(len(rows)))
    each = ReaderMoments(Reader("0", "1" if norm else ""), model[0], model[1] if norm else None, moments, None)
    state, kept = dict(model.state_dict()), torch.tensor([0, 2, 5])
    start = model[0].weight.detach()[:, kept]
    solved = refitted(state, each, kept, start)
    taps = 9 if convolution else 1
    columns = rows.double().view(len(rows), 6, taps)[:, kept].flatten(1)
    outputs = rows.double() @ state["0.weight"].double().flatten(1).T
    about = bias or norm  # a reader without either is solved about zero
    mean, target = columns.mean(0) * about, outputs.mean(0) * about
    scale = (RIDGE * (columns - mean).square().mean(0).mean() * len(rows)).sqrt()
    ridge = scale * torch.eye(columns.shape[1], dtype=columns.dtype)
    fitted = torch.linalg.lstsq(
        torch.cat((columns - mean, ridge)), torch.cat((outputs - target, ridge @ start.double().flatten(1).T))
    ).solution.T
    assert torch.allclose(solved["0.weight"].double().flatten(1), fitted, rtol=1e-4, atol=1e-5)
    # Of all linear maps of the kept channels it leaves the least error, up to the ridge.
    with torch.no_grad():
        wanted = model(x)
        with installed(model, Change(solved)):
            found = model(x[:, kept] if convolution else x[..., kept])
    if about:
        error = (found - wanted).flatten(0, -2) if not convolution else (found - wanted).movedim(1, -1).flatten(0, 2)
        assert error.mean(0).abs().max() < 1e-4
    assert set(solved) == {"0.weight", *(["0.bias"] if bias else ["1.running_mean"] if norm else [])}


def test_every_reader_of_a_site_is_solved_again() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"write": nn.Linear(4, 8), "one": nn.Linear(8, 3), "two": nn.Linear(8, 5)})
    x = model["write"](torch.randn(100, 4)).relu().detach()
    x[:, 1] = 2 * x[:, 0]
    readers = Reader("one"), Reader("two")
    writes = tuple(Slice(f"write.{each}", 0, ("hidden",)) for each in ("weight", "bias"))
    reads = tuple(Slice(reader.weight, 1, ("output",)) for reader in readers)
    site = HiddenSite(name="s", label="s", part="p", full=8, slices=(*writes, *reads), readers=readers)
    rows = Moments(8)
    rows.add(x, torch.ones(100))
    moments = SiteMoments(tuple(ReaderMoments(r, model[r.module], None, rows, None) for r in readers))
    state = model.state_dict()
    order = selected(site, state, moments)
    assert order[0, -1] in (0, 1)  # one of two channels that say the same
    cut = KeptCut(site, state, order, moments)
    change = cut.change(7, state)
    for name in ("one", "two"):
        wanted = x @ state[f"{name}.weight"].T + state[f"{name}.bias"]
        found = x[:, list(cut.kept(7))] @ change.tensors[f"{name}.weight"].T + change.tensors[f"{name}.bias"]
        assert torch.allclose(found, wanted, atol=1e-3)
    assert change.tensors["write.weight"].shape == (7, 4)
    assert unchanged(model, {name: tensor.clone() for name, tensor in state.items()})


@pytest.mark.parametrize("kind", ["dn_detr", GRID])
def test_full_widths_change_nothing_and_refits_only_where_channels_leave(kind: str) -> None:
    one = shared(kind)
    sites = [site for site in one.sites if isinstance(site, (HiddenSite, AttentionSite))][::3]
    given = scorers.given(one.activations(sites=sites), sites)
    cutter = Cutter(given, "basis")
    assert not cutter.change({site.name: site.full for site in sites})
    for site in sites:
        same = cutter.cuts[site.name].change(site.full, given.state).tensors
        assert all(torch.equal(tensor, given.state[name]) for name, tensor in same.items())
    half = cutter.change({sites[-1].name: sites[-1].full // 2})
    assert half.tensors.keys() == {part.name for part in sites[-1].slices} | {f"{sites[-1].readers[0].module}.bias"}


def test_cuts_of_chained_sites_are_those_of_masked_models_with_the_new_weights() -> None:
    one = shared(GRID)
    given = scorers.given(one.activations(), one.sites)
    cutter = Cutter(given, "select")
    widths = {"conv1": 9, "conv2": 11}
    kept = {name: cutter.cuts[name].kept(width) for name, width in widths.items()}
    change = cutter.change(widths)
    slim = one.family.slim(one.model, change)
    twin = one.family.slim(one.model, Change())
    state = twin.state_dict()
    with torch.no_grad():
        first, second = list(kept["conv1"]), list(kept["conv2"])
        alone = cutter.change({"conv1": 9})
        state["conv2.weight"][:, first] = alone.tensors["conv2.weight"]
        state["conv2.bias"].copy_(alone.tensors["conv2.bias"])
        state["head.weight"][:, second] = change.tensors["head.weight"]
        state["head.bias"].copy_(change.tensors["head.bias"])
    assert farthest(one.answer(slim), one.answer(masked(one.family, twin, kept))) < 1e-5
    assert farthest(one.answer(slim), one.answer(transplant(one.family, twin, kept))) < 1e-5


def test_changes_are_made_once_and_chained_ones_each_time_from_what_came_before() -> None:
    one = shared(GRID)
    given = scorers.given(one.activations(), one.sites)
    cutter = Cutter(given, "magnitude", refit=False)
    first, second = cutter.change({"conv1": 8, "conv2": 12}), cutter.change({"conv1": 4, "conv2": 12})
    assert first.tensors["conv1.weight"] is cutter.change({"conv1": 8}).tensors["conv1.weight"]
    assert first.tensors["conv2.weight"].shape == (12, 8, 3, 3)
    assert second.tensors["conv2.weight"].shape == (12, 4, 3, 3)
    again = Cutter(given, "magnitude", refit=False).change({"conv1": 4, "conv2": 12})
    assert all(torch.equal(second.tensors[name], tensor) for name, tensor in again.tensors.items())


def test_sites_inside_what_leaves_are_left_alone() -> None:
    one = shared()
    before = bits(one.model)
    given = scorers.given(one.activations(sites=one.part("decoder", "layers")), one.sites)
    change = Cutter(given, "magnitude", refit=False).change({"decoder.1": 0, "decoder.1.ffn": 8, "decoder.2.ffn": 8})
    assert not any("layers.1." in name for name in change.tensors)
    assert change.tensors["transformer.decoder.layers.2.linear1.weight"].shape == (8, 32)
    assert change.pairing.gone == {1}
    assert unchanged(one.model, before)


def test_orders_become_orders_of_groups_and_units_by_the_best_channel_of_each() -> None:
    reader = Reader("out")
    heads = AttentionSite(name="a", label="a", part="p", full=8, grain=2, heads=2, reader=reader)
    whole = AttentionSite(name="b", label="b", part="p", full=8, grain=4, heads=1, head_dim=2, reader=reader)
    order = torch.tensor([6, 1, 2, 7, 4, 0, 3, 5])
    assert by_group(heads, order).tolist() == [[1, 2, 0, 3], [6, 7, 4, 5]]
    assert by_group(whole, order).tolist() == [[3, 0, 1, 2]]
    assert channels_of(heads, torch.tensor([[1, 2], [6, 7]])) == (1, 2, 6, 7)
    assert channels_of(whole, torch.tensor([[3, 0]])) == (0, 1, 6, 7)
    assert kind_of(heads).first(heads, 4) == (0, 1, 4, 5)
    assert kind_of(whole).first(whole, 4) == (0, 1, 2, 3)
