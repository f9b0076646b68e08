"""What is saved: by count, or by the clock."""

import pytest

from greedyprune import UserError
from greedyprune.search import latency
from greedyprune.search.allocation import least_widths
from greedyprune.search.cost import CostModel
from greedyprune.search.latency import LatencyTable, measure_sites
from greedyprune.search.options import SearchOptions, Steps
from greedyprune.search.saving import Saving
from greedyprune.search.search import check_budget

from ..helpers.engine import GRID, Subject, bits, subject, unchanged

SIZE = (64, 96)
OPTIONS = SearchOptions(steps=Steps(attn=8, ffn=8))


@pytest.fixture(scope="module")
def one() -> Subject:
    return subject("dn_detr")


@pytest.fixture(scope="module")
def channels(one: Subject) -> CostModel:
    return CostModel(one.family, one.model, one.part("encoder", "heads"), SIZE)


@pytest.fixture(scope="module")
def everything(one: Subject) -> CostModel:
    return CostModel(one.family, one.model, one.part("encoder", "decoder", "heads", "layers", "queries"), SIZE)


@pytest.mark.parametrize("kind", ["flops", "params"])
@pytest.mark.parametrize("parts", ["channels", pytest.param("everything", marks=pytest.mark.slow)])
def test_shares_of_the_sites_and_of_the_model_are_of_what_is_really_counted(
    kind: str, parts: str, request: pytest.FixtureRequest
) -> None:
    cost = request.getfixturevalue(parts)
    saving = Saving(cost, kind)
    widths = {site.name: max(site.least, site.full // 2) for site in cost.sites} | {"decoder.1": 1}
    share = saving.share_with(widths)
    assert share == pytest.approx(cost(widths).of(kind) / cost.dense.of(kind))
    assert saving.sites_share(share) * saving.sites == pytest.approx(saving.of_sites(widths))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dn_detr", pytest.param("deformable, refined", marks=pytest.mark.slow), GRID])
def test_every_sort_of_site_is_timed_at_its_widths_and_the_model_is_as_before(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "ROUNDS", 2)  # how exactly is no matter here
    one = subject(kind)
    bench, before = one.bench(), bits(one.model)
    sites = one.sorts()
    table = measure_sites(bench, sites, one.images, OPTIONS)
    assert table.batch == len(one.images)
    assert list(table.sites) == [site.name for site in sites]
    for site in sites:
        widths, times = table.sites[site.name]
        assert widths[-1] == site.full
        assert len(widths) == len(times)
        assert min(times) > 0
    assert unchanged(bench.model, before)
    assert LatencyTable.of(table.stored()) == table


@pytest.mark.slow
def test_time_between_measured_widths_is_in_proportion(one: Subject) -> None:
    sites = [one.site(name) for name in ("encoder.0.ffn", "decoder.0.ffn")]
    table = {"encoder.0.ffn": ((8, 24, 40), (1.0, 2.0, 6.0)), "decoder.0.ffn": ((8, 40), (1.0, 3.0))}
    saving = Saving(CostModel(one.family, one.model, sites, SIZE), "latency", LatencyTable(20.0, 8, table))
    assert saving.sites == pytest.approx(5.0 + 2.0)
    assert saving.of_site("encoder.0.ffn", 32) == pytest.approx(3.0)
    assert saving.share_with({"encoder.0.ffn": 24, "decoder.0.ffn": 40}) == pytest.approx(1 - 4 / 20)
    assert saving.sites_share(1 - 4 / 20) == pytest.approx(3 / 7)


def test_a_budget_that_cannot_be_reached_is_refused_with_the_least_that_can(channels: CostModel) -> None:
    saving, sites = Saving(channels, "flops"), channels.sites
    with pytest.raises(UserError, match=r"--target_flops 0\.05 cannot be reached.* costs 0\.\d+ of the dense one"):
        check_budget(saving, sites, SearchOptions(budget=0.05))
    check_budget(saving, sites, SearchOptions(budget=0.999))


def test_of_layers_of_which_one_must_stay_the_least_widths_keep_one(one: Subject) -> None:
    widths = least_widths(one.sites, SearchOptions())
    assert [widths[f"decoder.{layer}"] for layer in range(3)] == [1, 0, 0]
    assert [widths[f"encoder.{layer}"] for layer in range(2)] == [0, 0]
