"""What is saved: by count, or by the clock."""

from functools import cache

import pytest

from greedyprune import UserError
from greedyprune.search.cost import CostModel
from greedyprune.search.latency import LatencyTable, measure_sites
from greedyprune.search.options import SearchOptions, Steps
from greedyprune.search.saving import Saving
from greedyprune.search.search import check_budget, least_widths
from greedyprune.sites import CountSite

from ..helpers.engine import GRID, Subject, bits, subject, unchanged

SIZE = (64, 96)
COARSE = SearchOptions(steps=Steps(attn=8, ffn=20, mlp=16, conv=80, query=4))


@cache
def costed(kind: str) -> tuple[Subject, CostModel]:
    made = subject(kind)
    return made, CostModel(made.family, made.model, made.sites, SIZE)


@pytest.mark.parametrize("what", ["flops", "params"])
@pytest.mark.parametrize("kind", ["dn_detr", GRID])
def test_shares_of_the_sites_and_of_the_model_are_of_what_is_really_counted(kind: str, what: str) -> None:
    made, cost = costed(kind)
    saving = Saving(cost, what)
    widths = {site.name: max(site.grain, site.full // 2 // site.grain * site.grain) for site in made.sites}
    assert saving.share_with(widths) == pytest.approx(cost(widths).of(what) / cost.dense.of(what))
    assert saving.of_sites(cost.full) == saving.sites
    budget = saving.share_with(widths)
    assert saving.sites_share(budget) * saving.sites == pytest.approx(saving.of_sites(widths))


@pytest.mark.parametrize("kind", ["dn_detr", GRID])
def test_every_site_is_timed_at_its_widths_and_the_model_is_as_before(kind: str) -> None:
    made = subject(kind)
    before = bits(made.model)
    table = measure_sites(made.bench(), made.sites, made.images, COARSE)
    assert unchanged(made.model, before)
    assert table.batch == 2
    assert list(table.sites) == [site.name for site in made.sites]
    for site in made.sites:
        widths, times = table.sites[site.name]
        assert (widths[-1], len(widths)) == (site.full, len(times))
        assert min(times) > 0
    assert LatencyTable.of(table.stored()) == LatencyTable.of(LatencyTable.of(table.stored()).stored())


def test_time_between_measured_widths_is_in_proportion() -> None:
    made = subject()
    first, second = "encoder.0.ffn", "decoder.0.ffn"
    sites = {first: ([8, 20, 40], [1.0, 2.0, 6.0]), second: ([8, 40], [1.0, 3.0])}
    cost = CostModel(made.family, made.model, [made.site(first), made.site(second)], SIZE)
    saving = Saving(cost, "latency", LatencyTable(20.0, 8, sites))
    assert saving.sites == pytest.approx(5.0 + 2.0)
    assert saving.of_site(first, 30) == pytest.approx(3.0)
    assert saving.share_with({first: 20, second: 40}) == pytest.approx(1 - 4 / 20)
    assert saving.sites_share(1 - 4 / 20) == pytest.approx(3 / 7)


def test_a_budget_that_cannot_be_reached_is_refused_with_the_least_that_can() -> None:
    made, cost = costed("dn_detr")
    saving = Saving(cost, "flops")
    least = saving.share_with(least_widths(made.sites, SearchOptions()))
    with pytest.raises(UserError, match=r"--target_flops \S+ cannot be reached.* costs 0\.\d+ of the dense one"):
        check_budget(saving, made.sites, SearchOptions(budget=least * 0.99))
    check_budget(saving, made.sites, SearchOptions(budget=least * 1.01))


def test_of_layers_of_which_one_must_stay_the_least_widths_keep_one() -> None:
    made, cost = costed("dn_detr")
    widths = least_widths(made.sites, SearchOptions())
    layers = [site for site in made.sites if isinstance(site, CountSite) and site.one_of]
    assert len(layers) == 3
    assert sum(widths[site.name] for site in layers) == 1
    assert 0 < cost(widths).flops < cost.dense.flops
