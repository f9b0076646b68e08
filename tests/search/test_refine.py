"""What Optuna's samplers propose follows from the seed and the trials alone."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from greedyprune.search.record import Baseline, Proposal, Record
from greedyprune.search.refine import refined_widths
from greedyprune.search.study import Study

from .small_global import OPTIONS

SITES = {"encoder.0.attn": (32, 8), "encoder.0.ffn": (40, 16), "decoder.0.cross": (32, 8)}
BASELINE = Baseline(0.5, 0.6, 10, 1.0)


def record(phase: str, widths: dict[str, int], ap: float | None = None) -> Record:
    share = sum(widths.values()) / sum(width for width, _ in SITES.values())
    return Record(Proposal(phase, 0, share, None, False), widths, 0.4 * share, ap, 0.588, 1, 1, 1, 1.0)


def drawn(count: int) -> list[Record]:
    rng = random.Random(0)
    found = []
    for number in range(count):
        widths = {
            "encoder.0.attn": 8 * rng.randint(1, 4),
            "encoder.0.ffn": 8 * rng.randint(1, 5),
            "decoder.0.cross": 16,
        }
        found.append(record("budget", widths, None if number == 1 else rng.random() * 0.6))
    return found


@pytest.mark.parametrize("budget", [None, 0.5])
@pytest.mark.parametrize("sampler", ["tpe", "nsgaii"])
def test_the_next_proposals_are_the_same_after_a_resume(sampler: str, budget: float | None, tmp_path: Path) -> None:
    options = replace(OPTIONS, sampler=sampler)
    sites = {name: (width, step) for name, (width, step) in SITES.items()}
    records, proposed = drawn(5), []
    for number in range(12):
        with Study.open(str(tmp_path / "prune.db"), "refine", {}, sites=sites) as study:
            for each in records[len(study.records()) :]:
                study.add(each)
            known = study.records()
        assert known == records
        widths = refined_widths(options, budget, SITES, known, BASELINE)
        assert widths == refined_widths(options, budget, SITES, records, BASELINE)
        for name, (width, step) in SITES.items():
            assert 0 < widths[name] <= width
            assert widths[name] % min(step, 8) == 0
        proposed.append(tuple(widths.values()))
        records.append(record("refine", widths, 0.1 + number / 30))
    assert len(set(proposed)) > 3
    other = replace(options, seed=1)
    assert any(
        refined_widths(other, budget, SITES, records[:known], BASELINE)
        != refined_widths(options, budget, SITES, records[:known], BASELINE)
        for known in range(5, 17)
    )


def test_nsgaii_breeds_from_the_trials_of_the_search() -> None:
    sites = {f"encoder.{layer}.ffn": (4096, 1) for layer in range(12)}
    rng = random.Random(0)
    records = [record("budget", {name: rng.randint(1, 4096) for name in sites}, rng.random()) for _ in range(6)]
    widths = refined_widths(replace(OPTIONS, sampler="nsgaii"), None, sites, records, BASELINE)
    known = {name: {4096, *(each.widths[name] for each in records)} for name in sites}
    assert sum(widths[name] in known[name] for name in sites) >= 8


def test_mended_trials_are_not_told() -> None:
    records = drawn(5)
    mended = [*records, record("mend", records[0].widths, 0.59)]
    for sampler in ("tpe", "nsgaii"):
        options = replace(OPTIONS, sampler=sampler)
        alone = refined_widths(options, None, SITES, records, BASELINE)
        assert refined_widths(options, None, SITES, mended, BASELINE) == alone
