"""What a search tries next follows from its options and trials alone."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from greedyprune.search.options import MendOptions, SearchOptions
from greedyprune.search.phases import SCHEDULES, Ask, Story
from greedyprune.search.phases.mend import HEALED
from greedyprune.study.trial import Baseline, Trial, last_held, of_phase

BASELINE = Baseline(0.5, 0.5 / 0.98, 10, 1.0)
SEARCH = SearchOptions(rounds=6, mend=MendOptions(steps=10, hold=1))
UNMENDED = replace(SEARCH, mend=MendOptions(steps=0))
STILL = replace(SEARCH, rounds=0)  # nothing moves


def following(
    options: SearchOptions, trials: Sequence[Trial], budget: float | None = None, least: float = 0.0
) -> tuple[str, Ask] | None:
    """The phase and what it asks for."""
    story = Story(BASELINE, trials, least, budget)
    for phase in SCHEDULES["global"](options, ()):
        if (ask := phase.next(story)) is not None:
            return phase.name, ask
    return None


def damage(share: float) -> float:
    return 1 / share - 1


def trial_of(phase: str, ask: Ask, holds: bool, ap: float | None) -> Trial:
    widths = {"site": len(phase)}
    measured = {"subset_map": 0.5, "full_map": ap, "target": 0.5}
    spent = {"params": 1, "flops": 1, "image_forwards": 1, "seconds": 1.0}
    return Trial(phase, ask.step, widths, ask.share, holds, **measured, **spent, predicted=damage(ask.share))


def played(options: SearchOptions, least: float, mended: float, budget: float | None = None) -> list[Trial]:
    """A search in which exactly what costs at least `least` holds, or at least `mended` once it is mended."""
    return continued([], options, least, mended, budget)


def continued(
    known: Sequence[Trial], options: SearchOptions, least: float, mended: float, budget: float | None = None
) -> list[Trial]:
    trials = list(known)
    while (step := following(options, trials, budget)) is not None:
        phase, ask = step
        holds = ask.share >= (mended if phase == "mend" else least)
        if budget is not None:
            holds = ask.step == 0
        ap = 0.5 if holds else 0.5 - 0.2 * (mended - ask.share if phase == "mend" else 0.1)
        trials.append(trial_of(phase, ask, holds, ap))
    return trials


def shares(trials: Sequence[Trial], phase: str) -> list[float]:
    return [trial.share for trial in of_phase(trials, phase)]


@pytest.mark.parametrize("least", [0.01, 0.33, 0.5, 0.77, 0.999])
def test_halving_finds_the_least_budget_to_a_64th(least: float) -> None:
    trials = played(replace(UNMENDED, rounds=0), least, 2.0)
    assert len(shares(trials, "budget")) == len(trials) == 6
    best = last_held(trials)
    found = 1.0 if best is None else best.share
    assert least <= found <= least + 1 / 64


def test_moves_go_on_from_the_best_by_smaller_paces_and_end_when_the_smallest_fails() -> None:
    moves = shares(played(UNMENDED, 0.40, 2.0), "move")
    assert moves == pytest.approx([0.40625 - 0.04, 0.40625 - 0.02, 0.40625 - 0.01])
    assert len(shares(played(replace(UNMENDED, rounds=2), 0.40, 2.0), "move")) == 2


def test_moves_are_tried_without_mending_unless_they_are_asked_for() -> None:
    assert shares(played(replace(SEARCH, rounds=None), 0.4, 0.3), "move") == []
    assert len(shares(played(replace(UNMENDED, rounds=None), 0.4, 2.0), "move")) == 3


@pytest.mark.parametrize("mended", [0.05, 0.3, 0.4, 0.5, 0.55])
def test_one_mended_model_is_wanted_and_what_fails_is_followed_by_something_wider(mended: float) -> None:
    trials = played(STILL, 0.6, mended)
    unmended = last_held(of_phase(trials, "budget"))
    assert unmended is not None
    tried = shares(trials, "mend")
    assert damage(tried[0]) == pytest.approx(HEALED * damage(unmended.share), rel=0.25)
    assert tried == sorted(tried)
    assert len(tried) <= 3
    assert all(share < mended for share in tried[:-1])
    best = last_held(trials)
    assert best is not None
    assert best.share == (tried[-1] if tried[-1] >= mended else unmended.share)


def test_coarse_steps_that_give_the_same_widths_twice_still_lead_to_mending() -> None:
    trials = played(STILL, 0.6, 0.3)
    same = [replace(trials[0], step=trial.step) for trial in trials[:6]]
    step = following(STILL, same)
    assert step is not None
    assert step[0] == "mend"


def test_more_mended_models_grow_narrower_until_enough_hold_or_the_next_one_is_the_same() -> None:
    tried = shares(played(replace(STILL, mend=MendOptions(hold=3)), 0.6, 0.05), "mend")
    assert tried == sorted(tried, reverse=True)
    assert len(tried) == 3
    tried = shares(played(replace(STILL, mend=MendOptions(hold=9)), 0.6, 0.27), "mend")
    held = [share for share in tried if share >= 0.27]
    assert len(tried) - len(held) <= 3
    assert 0.27 <= min(held) < 0.29


@pytest.mark.parametrize("mended", [0.2, 0.3, 0.4, 0.5])
def test_what_mends_as_detectors_do_is_found_in_few_trials(mended: float) -> None:
    trials: list[Trial] = []
    while (step := following(STILL, trials)) is not None:
        phase, ask = step
        lost = 0.02 * ((1 - ask.share) / (1 - mended)) ** 3.5 if phase == "mend" else 0.0
        holds = lost <= 0.02 if phase == "mend" else ask.share >= 0.6
        trials.append(trial_of(phase, ask, holds, BASELINE.full_map * (1 - lost)))
    best = last_held(trials)
    assert best is not None
    assert best.phase == "mend"
    assert mended <= best.share < mended + 0.05
    assert len(of_phase(trials, "mend")) <= 3


def test_nothing_holds_and_the_dense_model_stays() -> None:
    assert last_held(played(SEARCH, 2.0, 2.0)) is None


def test_a_given_budget_is_tried_moved_within_and_mended_once() -> None:
    trials = played(SEARCH, 0.0, 0.0, budget=0.3)
    told = [(trial.phase, trial.step, trial.share) for trial in trials]
    assert told == [("budget", 0, 0.3), ("move", 0, 0.3), ("move", 1, 0.3), ("mend", 0, 0.3)]


@pytest.mark.parametrize("budget", [None, 0.3])
def test_the_next_step_is_the_same_after_any_number_of_trials(budget: float | None) -> None:
    options = replace(SEARCH, pareto=3)
    trials = played(options, 0.5, 0.4, budget)
    for known, trial in enumerate(trials):
        assert following(options, trials[:known], budget) == (trial.phase, Ask(trial.step, trial.share))


def test_beyond_the_search_the_widest_gap_between_measured_budgets_is_halved() -> None:
    options = replace(UNMENDED, rounds=0)
    searched = played(options, 0.5, 2.0)
    trials = played(replace(options, pareto=9), 0.5, 2.0)
    assert trials[: len(searched)] == searched
    known = sorted([0.0, 1.0, *shares(trials, "budget"), *shares(trials, "pareto")])
    assert len(shares(trials, "pareto")) == 9
    assert max(high - low for low, high in pairwise(known)) <= 1 / 8
    unknown = [replace(trial, full_map=None) for trial in searched]
    assert following(replace(options, pareto=1), unknown, least=0.2) == ("pareto", Ask(0, 0.6))


def test_what_is_asked_beyond_the_search_may_be_asked_later_and_changes_nothing_before() -> None:
    late = replace(SEARCH, pareto=4, refine=4)
    assert SEARCH.settings() == late.settings()
    searched = played(SEARCH, 0.5, 0.4)
    trials = continued(searched, late, 0.5, 0.4)
    assert trials == played(late, 0.5, 0.4)
    assert trials[: len(searched)] == searched
    assert [trial.phase for trial in trials[len(searched) :]] == ["pareto"] * 4 + ["refine"] * 4
    assert following(SEARCH, trials) is None
    assert following(late, trials) is None


def test_a_better_trial_beyond_the_search_does_not_start_the_search_again() -> None:
    options = replace(UNMENDED, pareto=1)
    trials = played(options, 2.0, 2.0)  # nothing holds, so nothing was moved
    trials[-1] = replace(trials[-1], holds=True)
    assert following(options, trials) is None
    assert last_held(trials) == trials[-1]
