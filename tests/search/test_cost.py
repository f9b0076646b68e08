"""What a proposal costs by its widths is what the slim model of these widths costs."""

import random
from collections.abc import Sequence

import pytest

from greedyprune.evaluation.profile import WHOLE, count_flops, count_parameters
from greedyprune.search.cost import Cost, CostModel
from greedyprune.sites import AttentionSite, CountSite, Site

from ..helpers.detectors import KINDS, stirred
from ..helpers.engine import GRID, Subject, subject

SIZE = (64, 96)


def counted(one: Subject, model) -> Cost:
    """By a forward pass of the model itself, in its deployed form with the dense model's constants.

    It may have others of its own: a narrow head of random weights may be dead.
    """
    fast = one.family.deployed(model, SIZE, one.family.constants(one.model, SIZE))
    return Cost(count_parameters(one.family, model)[WHOLE], count_flops(one.family, fast, SIZE)[WHOLE])


def built(one: Subject, widths: dict[str, int]) -> Cost:
    """Of a detector that is made with these widths from the start."""
    complete = one.family.layout(one.model).parse({site.name: site.full for site in one.sites} | widths, "here")
    return counted(one, stirred(type(one.model)(one.model.options, complete)))


def drawn(sites: Sequence[Site], rng: random.Random) -> dict[str, int]:
    """Any widths, of which one of a group of layers is left."""
    widths = {site.name: rng.randrange(site.least, site.full + 1, site.grain) for site in sites}
    groups: dict[str, list[str]] = {}
    for site in sites:
        if isinstance(site, CountSite) and site.one_of:
            groups.setdefault(site.one_of, []).append(site.name)
    return widths | {names[-1]: 1 for names in groups.values() if not any(widths[name] for name in names)}


def check_costs(one: Subject, sites: Sequence[Site]) -> None:
    cost = CostModel(one.family, one.model, sites, SIZE)
    rng = random.Random(0)
    for _ in range(2):
        widths = drawn(sites, rng)
        assert cost(widths) == built(one, widths)
        if "decoder.0" in widths:
            second = widths | {"decoder.0": 0, "decoder.1": 1}
            assert cost(second) == built(one, second)
    assert cost({}) == cost.dense == counted(one, one.model)


@pytest.mark.slow
def test_cost_by_widths_of_a_site_of_every_sort_is_that_of_the_slim_model() -> None:
    one = subject("dn_detr")
    check_costs(one, one.sorts())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_cost_by_widths_of_every_site_is_that_of_the_slim_model(kind: str) -> None:
    one = subject(kind)
    check_costs(one, one.sites)


def test_what_heads_lose_whole_is_counted_too() -> None:
    one = subject("dn_detr", whole_heads=True)
    sites = [site for site in one.sites if isinstance(site, AttentionSite)]
    cost = CostModel(one.family, one.model, sites, SIZE)
    widths = {site.name: site.grain for site in sites}
    assert cost(widths) == built(one, widths)


def test_a_site_alone_costs_in_proportion_to_its_width() -> None:
    one = subject(GRID)
    cost = CostModel(one.family, one.model, one.sites, SIZE)
    site = one.sites[0]
    saved = cost.dense.flops - cost({site.name: site.full // 2}).flops
    assert cost.alone(site.name, site.full, "flops") == pytest.approx(2 * saved)
