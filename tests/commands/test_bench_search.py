"""The benchmark measures what it says: both ways find the same, and what is counted is what would run."""

import pytest
import torch
from greedyprune.pruning.sites import list_sites
from rich.console import Console

from greedyprune.commands import bench_search
from greedyprune.commands.bench_search import (
    CLASSES,
    Bench,
    main,
    order_table,
    profile_table,
    search_table,
    speed_table,
)
from greedyprune.errors import UserError
from greedyprune.models import build_model
from greedyprune.pruning.scorers import Given, exact
from greedyprune.pruning.scorers.exact import candidate_count, growth


@pytest.fixture(scope="module", params=["dn_detr", "deformable_detr"])
def bench(request: pytest.FixtureRequest) -> Bench:
    torch.manual_seed(0)
    widths = {"hidden_dim": 32, "heads": 4, "enc_layers": 2, "dec_layers": 2, "ffn_dim": 48, "num_queries": 9}
    model = build_model(request.param, num_classes=CLASSES, backbone="small", **widths)
    bench_search.start_zeros(model)
    return Bench(model.eval(), 2, (64, 96))


def test_both_ways_rank_candidates_alike_and_tell_them_apart(bench: Bench) -> None:
    speeds = [bench.measure_site(site, 4) for site in list_sites(bench.model) if site.layer == 1]
    assert len(speeds) == 5
    for speed in speeds:
        assert speed.same
        assert speed.difference < 1e-5
        assert speed.spread > 100 * speed.difference
        assert min(speed.plain, speed.cached, speed.ratio, speed.prefix, speed.calibration, speed.cut) > 0
    profile = bench.measure_profile(20)
    console = Console(width=200)
    with console.capture() as capture:
        console.print(speed_table(speeds, 4), order_table(speeds, bench.features))
        console.print(profile_table(profile), search_table(profile, 30, 1.0))
    assert capture.get().count("identical") == 5
    assert "DIFFERENT" not in capture.get()


@pytest.mark.parametrize("name", ["encoder.0.attn", "encoder.0.ffn"])
def test_the_candidates_that_are_counted_are_those_that_are_scored(
    name: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = next(site for site in list_sites(bench.model) if site.name == name)
    scored = []

    def losses(model, site, kept, candidates, batches, criterion):
        scored.extend(candidates)
        return torch.zeros(len(candidates))

    monkeypatch.setattr(exact, "candidate_losses", losses)
    growth(Given(bench.model, [site], lambda: [(bench.start, bench.targets)]), site)
    assert len(scored) == candidate_count(site)


def test_a_layer_that_is_not_there_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="--layer 9: the encoder or the decoder has no such layer"):
        main(["--backbone", "small", "--layer", "9"])
