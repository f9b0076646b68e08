"""Costs by formula are those of the slim models, however sites share tensors."""

import random

import pytest
import torch

from greedyprune.embedded import ASSETS
from greedyprune.evaluation.profile import WHOLE, count_flops, count_parameters
from greedyprune.families import family_of
from greedyprune.models.darknet import Darknet
from greedyprune.models.darknet.cfg import load_cfg
from greedyprune.pruning.damage import DamageTable, width_grid
from greedyprune.pruning.transplant import transplant
from greedyprune.search.cost import Cost, CostModel
from greedyprune.search.saving import Saving

from ..helpers.convolutional import NETS, convolutional
from ..helpers.engine import subject

SIZE = (64, 96)


def drawn(sites, rng: random.Random) -> dict[str, int]:
    return {site.name: rng.randrange(site.least, site.full + 1, site.grain) for site in sites}


@pytest.mark.parametrize("kind", NETS)
def test_a_formula_is_what_the_slim_model_counts(kind: str) -> None:
    one, rng = convolutional(kind), random.Random(0)
    cost = CostModel(one.family, one.model, one.sites, SIZE)
    for what in ("flops", "params"):
        assert cost.formula(what) is not None
    for _ in range(3):
        widths = drawn(one.sites, rng)
        slim = transplant(one.family, one.model, {name: range(width) for name, width in widths.items()})
        fast = one.family.deployed(slim, SIZE)
        assert cost(widths) == Cost(
            count_parameters(one.family, slim)[WHOLE], count_flops(one.family, fast, SIZE)[WHOLE]
        )
        name = rng.choice(list(widths))
        alone = cost({name: widths[name]}).flops - cost({}).flops
        full = next(site.full for site in one.sites if site.name == name)
        assert cost.alone(name, widths[name], "flops") - cost.alone(name, full, "flops") == alone


def test_what_all_channels_cost_is_all_but_what_no_site_has() -> None:
    one = convolutional("reorganised")
    cost = CostModel(one.family, one.model, one.sites, SIZE)
    assert cost.channels("flops") == cost.dense.flops  # each of its weights loses all of one side
    assert cost.channels("params") == cost.dense.params - len(one.model.head.bias)
    saving = Saving(cost, "flops")
    widths = drawn(one.sites, random.Random(1))
    assert saving.share_with(widths) == pytest.approx(cost(widths).flops / cost.dense.flops)


def test_a_detector_with_other_sites_has_no_formula_for_all_of_them() -> None:
    one = subject("dn_detr", enc_layers=1, dec_layers=1)
    attention, ffn = one.part("encoder")
    assert CostModel(one.family, one.model, [ffn], SIZE).formula("flops") is not None
    assert CostModel(one.family, one.model, [attention, ffn], SIZE).formula("flops") is None


@pytest.mark.slow
def test_widths_of_yolov2_are_allocated_within_the_budget_by_what_they_really_cost() -> None:
    with torch.device("meta"):
        model = Darknet(load_cfg(ASSETS / "yolov2-voc.cfg")).eval()
    family = family_of(model)
    sites = family.sites(model)
    cost = CostModel(family, model, sites, (416, 416))
    assert cost.dense.params == 50_655_389
    halves = {site.name: site.full // 2 for site in sites}
    assert cost(halves) == cost._counted(halves)
    saving, rng = Saving(cost, "flops"), random.Random(0)
    formula = saving.formula
    assert formula is not None
    steps = {site.name: site.step for site in sites}
    grids = {site.name: width_grid(site, site.step, (0.25, 0.5, 0.75)) for site in sites}
    powers = {site.name: rng.uniform(1.2, 3) for site in sites}
    points = {
        site.name: (grids[site.name], [(1 - width / site.full) ** powers[site.name] for width in grids[site.name]])
        for site in sites
    }
    table = DamageTable(sites, points, steps)
    budget = 0.3 * saving.sites
    chained, damage = table.best_chained_widths(formula.own, formula.pairs, saving.of_sites, budget)
    assert 0.98 * budget <= saving.of_sites(chained) <= budget * (1 + 1e-9)
    _, one_by_one = table.best_widths(saving.of_site, saving.of_sites, budget)
    assert damage < one_by_one
