"""Trials that follow one another as no search makes them are told by number."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from greedyprune import UserError
from greedyprune.search.options import SearchOptions
from greedyprune.search.phases import SCHEDULES
from greedyprune.search.phases.grow import position_of
from greedyprune.search.search import check_trials
from greedyprune.sites import AttentionSite, HiddenSite, Reader
from greedyprune.study.trial import Baseline, Grown, Trial

BASELINE = Baseline(0.5, 0.6, 10, 1.0)
ABOUT = {"part": "encoder"}
SITES = [
    AttentionSite(name="attn", label="attn", full=8, grain=2, least=2, heads=2, reader=Reader("out"), **ABOUT),
    HiddenSite(name="ffn", label="ffn", full=6, readers=(Reader("linear2"),), **ABOUT),
]


def trial(phase: str, step: int, grown: Grown | None = None, widths: dict[str, int] | None = None) -> Trial:
    return Trial(phase, step, widths or {}, 0.5, True, 0.4, 0.5, 0.5, 1, 1, 1, 1.0, grown=grown)


def grew(step: int, site: str, round_: int, kept: tuple[int, ...], done: bool = False, attn: int = 8) -> Trial:
    widths = {"attn": attn, "ffn": 6} | {site: len(kept)}
    return trial("gp", step, Grown(site, round_, kept, 1.0, done), widths)


GROWN = [
    grew(0, "attn", 0, (0, 4)),
    grew(1, "attn", 1, (0, 1, 4, 7), done=True),
    grew(2, "ffn", 0, (2, 3), attn=4),
]


def check(trials: Sequence[Trial], schedule: str = "gp", baseline: Baseline | None = BASELINE) -> None:
    options = SearchOptions(schedule=schedule)
    check_trials(SCHEDULES[schedule](options, SITES), baseline, trials, "study 'x'")


def refusal(trials: Sequence[Trial], schedule: str = "gp", baseline: Baseline | None = BASELINE) -> str:
    with pytest.raises(UserError) as told:
        check(trials, schedule, baseline)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_rounds_in_order_are_replayed() -> None:
    check(GROWN)
    here = position_of(BASELINE, GROWN)
    assert here.kept == {"attn": (0, 1, 4, 7)}
    assert (here.growing, here.round) == ((2, 3), 1)
    assert (here.subset_map, here.full_map) == (0.4, 0.5)
    start = position_of(BASELINE, GROWN[:1])
    assert (start.kept, start.growing, start.round) == ({}, (0, 4), 1)
    assert (start.subset_map, start.full_map) == (0.5, 0.6)


@pytest.mark.parametrize(
    ("number", "wrong", "words"),
    [
        (0, grew(0, "ffn", 0, (1,)), "is round 0 of ffn, where round 0 of attn comes next"),
        (1, grew(1, "attn", 0, (0, 4)), "is round 0 of attn, where round 1 of attn comes next"),
        (1, grew(1, "attn", 1, (1, 2, 5, 6)), "keeps not all the channels of the round before it"),
        (1, grew(1, "attn", 1, (0, 1, 2, 4)), "heads keep different numbers"),
        (1, replace(GROWN[1], widths={"attn": 6, "ffn": 6}), "has other widths than the 4 channels of attn"),
        (2, grew(2, "ffn", 0, (5, 6), attn=4), "0..5"),
        (2, trial("gp", 2), "does not say what grew, where round 0 of ffn comes next"),
        (2, trial("budget", 0), "is of phase 'budget', and this search has gp"),
    ],
)
def test_a_round_that_does_not_follow_is_told(number: int, wrong: Trial, words: str) -> None:
    line = refusal([*GROWN[:number], wrong, *GROWN[number + 1 :]])
    assert line.startswith(f"study 'x': trial {number}: ")
    assert words in line
    assert line.endswith("--study NAME")


def test_rounds_beyond_the_last_site_are_told() -> None:
    ended = [*GROWN[:2], replace(GROWN[2], grown=replace(GROWN[2].grown, done=True))]
    check(ended)
    assert "trial 3: comes after the last site" in refusal([*ended, GROWN[0]])


def test_proposals_are_counted_within_their_phases() -> None:
    trials = [trial("budget", 0), trial("budget", 1), trial("mend", 0)]
    check(trials, "global")
    check([*trials, trial("refine", 0), trial("pareto", 0)], "global")  # asked for one after the other
    assert "trial 2: is mend 0, where mend 1 comes" in refusal([trials[0], trials[2], trials[2]], "global")
    assert "trial 1: is of phase 'gp', and this search has budget" in refusal([trials[0], GROWN[0]], "global")
    told = refusal([replace(trials[0], grown=GROWN[0].grown)], "global")
    assert "trial 0: says that attn grew, and in phase budget nothing does" in told


def test_trials_without_a_measured_dense_model_are_told() -> None:
    assert "trial 0: is there, and the AP of the dense model is not" in refusal(GROWN, baseline=None)
    check([], baseline=None)
