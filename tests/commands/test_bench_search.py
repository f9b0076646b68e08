"""The benchmark measures what it says: both ways find the same, and what is counted is what would run."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from greedyprune.commands import bench_search
from greedyprune.commands.bench_search import CLASSES, layers_of, main, published_sites, start_zeros
from greedyprune.errors import UserError
from greedyprune.families import family_of
from greedyprune.models import build_model
from greedyprune.pruning.scorers import exact
from greedyprune.pruning.scorers.exact import candidate_count, growth
from greedyprune.search.speed import Generated, SpeedBench

SMALL = {"hidden_dim": 32, "heads": 4, "enc_layers": 2, "dec_layers": 2, "ffn_dim": 48, "num_queries": 9}


@pytest.fixture(scope="module", params=["dn_detr", "deformable_detr"])
def bench(request: pytest.FixtureRequest) -> SpeedBench:
    torch.manual_seed(0)
    model = build_model(request.param, num_classes=CLASSES, backbone="small", **SMALL)
    start_zeros(model)
    batch = Generated(2, (64, 96), CLASSES, torch.device("cpu"))
    return SpeedBench(family_of(model), model.eval(), published_sites(model), batch)


@pytest.mark.slow
def test_both_ways_rank_candidates_alike_and_tell_them_apart(bench: SpeedBench) -> None:
    layers = layers_of(bench.sites)
    assert {part: len(found) for part, found in layers.items()} == {"encoder": 2, "decoder": 2}
    speeds = [bench.measure_site(site, 4) for found in layers.values() for site in found[1]]
    assert len(speeds) == 5
    for speed in speeds:
        assert speed.same
        assert speed.difference < 1e-5
        assert speed.spread > 100 * speed.difference
        assert min(speed.plain, speed.cached, speed.ratio, speed.reach, speed.calibration, speed.cut) > 0


@pytest.mark.parametrize("name", ["encoder.0.attn", "encoder.0.ffn"])
def test_the_candidates_that_are_counted_are_those_that_are_scored(
    name: str, bench: SpeedBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = next(site for site in bench.sites if site.name == name)
    scored: list[int] = []

    def losses(images, site, kept, candidates, limit) -> Tensor:
        scored.extend(candidates)
        return torch.zeros(len(candidates))

    monkeypatch.setattr(exact, "candidate_losses", losses)
    growth(site, bench.scored)
    assert len(scored) == candidate_count(site)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line of a small detector on small images."""

    def build(name: str, **options):
        return build_model(name, **options, **SMALL)

    monkeypatch.setattr(bench_search, "build_model", build)
    monkeypatch.setenv("COLUMNS", "200")
    size = ["--height", "64", "--width", "96", "--ap_images", "5"]
    return ["--backbone", "small", "--device", "cpu", *size, "--candidates", "2"]


@pytest.mark.slow
def test_tables_and_the_file_say_the_same(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "speed" / "measured.json"
    assert main([*small, "--layer", "1", "--json", str(path)]) == 0
    written, shown = json.loads(path.read_text()), capsys.readouterr().out
    tables = written["tables"]
    names = ["encoder.1.attn", "encoder.1.ffn", "decoder.1.self", "decoder.1.cross", "decoder.1.ffn"]
    assert [row["site"] for row in tables["sites"]] == [row["site"] for row in tables["orders"]] == names
    assert shown.count("identical") == 5
    assert "DIFFERENT" not in shown
    for part in tables["parts"]:
        assert f"{part['milliseconds']:.2f}" in shown
    # The published search is the longest, and itself once.
    first, *others = tables["searches"]
    assert first["times"] == 1
    assert all(first["hours"] == pytest.approx(row["times"] * row["hours"]) for row in others)
    assert written["command"].startswith("python tools/bench_search.py --backbone small")
    assert written["about"]["image_size"] == [64, 96]


def test_other_choices_from_the_cache_are_told_and_end_with_code_1(
    small: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SpeedBench, "cached_loss", lambda self, site, candidate: -self.plain_loss(site, candidate))
    assert main(small) == 1
    told = capsys.readouterr()
    assert told.out.count("DIFFERENT") == 5
    assert "the cache makes other choices at encoder.0.attn, " in told.err


def test_a_layer_that_is_not_there_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="--layer 9: the encoder has 6 layers, the last one is 5"):
        main(["--backbone", "small", "--layer", "9"])
