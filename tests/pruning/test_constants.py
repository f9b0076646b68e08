"""What is left of a channel whose filter is zero goes into what reads it."""

import pytest
import torch
from torch import Tensor, nn

from greedyprune.pruning import scorers
from greedyprune.pruning.cutter import Cutter
from greedyprune.sites import Change

from ..helpers.convolutional import NETS, convolutional
from ..helpers.engine import Subject


def without_filters(one: Subject, kept: dict[str, tuple[int, ...]]) -> nn.Module:
    """As studies prune filters: their rows are zero, and nothing else of the model is changed."""
    state = one.model.state_dict()
    tensors: dict[str, Tensor] = {}
    for site in one.sites:
        for part in site.slices:
            layer = one.model.get_submodule(part.name.rpartition(".")[0])
            filters = isinstance(layer, nn.Conv2d) and part.dim == 0 and layer.weight.shape[1] > 1
            if filters and part.name.endswith("weight") and site.name in kept:
                off = site.positions(part, len(state[part.name]))[site.pruned(kept[site.name])].flatten()
                tensors[part.name] = tensors.get(part.name, state[part.name]).index_fill(0, off, 0)
    return one.family.slim(one.model, Change(tensors))


@pytest.mark.parametrize("kind", NETS)
def test_a_cut_without_refit_is_what_zero_filters_give_away_from_the_border(kind: str) -> None:
    one = convolutional(kind)
    one.images[:] = [torch.randn(3, 128, 128) for _ in range(2)]
    given = scorers.given(one.activations(one.batches(1)), one.sites)
    cutter = Cutter(given, "random", refit=False)
    widths = {site.name: max(site.least, site.full // 2 // site.grain * site.grain) for site in one.sites}
    kept = {name: cutter.cuts[name].kept(width) for name, width in widths.items()}
    slim = one.answer(one.family.slim(one.model, cutter.change(widths)))
    zeroed, dense = one.answer(without_filters(one, kept)), one.answer()

    def inner(logits: Tensor) -> Tensor:
        return logits.unflatten(1, (16, 16))[:, 5:-5, 5:-5]  # what no padding reaches

    apart = (inner(slim.logits) - inner(zeroed.logits)).abs().max()
    if kind == "dense":  # a mean over the whole map sees its border
        assert apart < 0.05 * (inner(zeroed.logits) - inner(dense.logits)).abs().max()
        return
    assert apart < 1e-4
    assert (inner(slim.logits) - inner(dense.logits)).abs().max() > 1e-2
    assert (slim.logits - zeroed.logits).abs().max() > 1e-3  # at the border it is not


@pytest.mark.parametrize("scorer", ["basis", "magnitude"])
@pytest.mark.parametrize("kind", NETS)
def test_the_closed_form_works_through_shared_readers_and_is_better_than_none(kind: str, scorer: str) -> None:
    one = convolutional(kind)
    images = one.activations(one.batches(3))
    given = scorers.given(images, one.sites)
    widths = {site.name: max(site.least, site.full // 2 // site.grain * site.grain) for site in one.sites}
    dense = one.answer()
    errors = []
    for refit in (True, False):
        slim = one.family.slim(one.model, Cutter(given, scorer, refit).change(widths))
        assert {site.name: site.full for site in one.family.sites(slim)} == widths
        errors.append(float((one.answer(slim).logits - dense.logits).square().mean()))
    assert errors[0] < errors[1]
