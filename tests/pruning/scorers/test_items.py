"""Queries are ordered by what they find, other items by the damage of their absence."""

import pytest
import torch

from greedyprune.pruning import scorers
from greedyprune.pruning.bench import NOTHING
from greedyprune.pruning.cutter import Cutter
from greedyprune.pruning.damage import divergence
from greedyprune.pruning.scorers.items import item_order
from greedyprune.pruning.transplant import kept_change
from greedyprune.sites import CountSite

from ...helpers.engine import shared


@pytest.mark.parametrize("kind", ["dn_detr", "patterns", "deformable"])
def test_queries_are_ordered_by_the_squares_of_their_best_chances(kind: str) -> None:
    one = shared(kind)
    batches, site = one.batches(2), one.site("queries")
    calibration = one.activations(batches)
    order = item_order(site, calibration)
    worth = torch.zeros(9, dtype=torch.float64)
    for images, _ in batches.iterate():
        best = one.answer(images=images).logits.sigmoid().amax(-1).double().square().sum(0)
        worth += best.view(site.copies, 9).sum(0)
    assert order == sorted(range(9), key=lambda query: -worth[query])
    given = scorers.given(calibration, one.sites)
    change = Cutter(given, "basis").change({"queries": 4})
    assert change.pairing.queries[:4].tolist() == sorted(order[:4])


def test_queries_that_find_nothing_leave_first() -> None:
    one = shared("deformable")
    images = one.activations()
    dense = [answer.last() for answer, _ in images.answers()]
    order = item_order(one.site("queries"), images)
    damages = []
    for kept in (order[:5], order[4:]):
        change = kept_change(one.sites, images.bench.state, {"queries": kept})
        pairs = zip(images.answers(change), dense, strict=True)
        damages.append(sum(divergence(a, d, change.pairing).sum().item() for (a, _), d in pairs))
    assert damages[0] < damages[1]


def test_proposals_are_in_the_order_in_which_the_model_takes_them() -> None:
    one = shared("dn deformable, two stages")
    images = one.activations(one.batches(1))
    assert item_order(one.site("queries"), images) == list(range(9))
    given = scorers.given(images, one.sites)
    change = Cutter(given, "select").change({"queries": 3})
    assert change.settings == {("", "num_proposals"): 3}
    assert change.pairing.queries.tolist() == [0, 1, 2]


def test_layers_of_one_count_are_ordered_by_the_damage_of_leaving_each_out() -> None:
    one = shared()
    layers = [site for site in one.sites if isinstance(site, CountSite) and site.name.startswith("encoder")]
    both = CountSite(
        name="layers",
        label="layers",
        part="layers",
        full=2,
        skips=tuple(site.skips[0] for site in layers),
        replacement=layers[0].replacement,
    )
    images = one.activations()
    dense = [answer.last() for answer, _ in images.answers(NOTHING)]
    damages = []
    for site in layers:
        change = kept_change(one.sites, images.bench.state, {site.name: ()})
        pairs = zip(images.answers(change), dense, strict=True)
        damages.append(sum(divergence(a, d, change.pairing).sum().item() for (a, _), d in pairs))
    assert item_order(both, images) == sorted((0, 1), key=lambda item: -damages[item])
    assert item_order(layers[0], images) == [0]
