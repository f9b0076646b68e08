"""What the global schedule does next follows from its trials alone."""

from dataclasses import replace
from itertools import pairwise

import pytest

from greedyprune.errors import UserError
from greedyprune.search.record import Proposal, Record
from greedyprune.search.steps import HEALED, GlobalOptions, Step, asks_more, best_record, next_step

from .small_global import OPTIONS


def damage(share: float) -> float:
    return 1 / share - 1


def played(options: GlobalOptions, least: float, mended: float, budget: float | None = None) -> list[Record]:
    """A search in which exactly what costs at least `least` holds, or at least `mended` once it is mended."""
    records: list[Record] = []
    while (step := next_step(options, budget, records)) is not None:
        holds = step.share >= (mended if step.phase == "mend" else least)
        if budget is not None:
            holds = step.number == 0
        origin = Proposal(step.phase, step.number, step.share, damage(step.share), holds)
        ap = 0.5 if holds else 0.5 - 0.2 * (mended - step.share if step.phase == "mend" else 0.1)
        records.append(Record(origin, {}, ap, ap, 0.5, 1, 1, 1, 1.0))
    return records


def shares(records: list[Record], phase: str) -> list[float]:
    return [r.origin.share for r in records if isinstance(r.origin, Proposal) and r.origin.phase == phase]


@pytest.mark.parametrize("least", [0.01, 0.33, 0.5, 0.77, 0.999])
def test_halving_finds_the_least_budget_to_a_64th(least: float) -> None:
    records = played(replace(OPTIONS, rounds=0, mend_steps=0), least, 2.0)
    tried = shares(records, "budget")
    assert len(tried) == len(records) == 6
    best = best_record(records)
    found = 1.0 if best is None else best.origin.share
    assert least <= found <= least + 1 / 64


def test_moves_go_on_from_the_best_by_smaller_paces_and_end_when_the_smallest_fails() -> None:
    records = played(replace(OPTIONS, mend_steps=0), 0.40, 2.0)
    moves = shares(records, "move")
    assert moves == pytest.approx([0.40625 - 0.04, 0.40625 - 0.02, 0.40625 - 0.01])
    assert len(shares(played(replace(OPTIONS, rounds=2, mend_steps=0), 0.40, 2.0), "move")) == 2


@pytest.mark.parametrize("mended", [0.05, 0.3, 0.4, 0.5, 0.55])
def test_one_mended_model_is_wanted_and_what_fails_is_followed_by_something_wider(mended: float) -> None:
    records = played(replace(OPTIONS, rounds=0, mends=1), 0.6, mended)
    unmended = best_record(records, mended=False)
    assert unmended is not None
    high = unmended.origin.share
    tried = shares(records, "mend")
    assert damage(tried[0]) == pytest.approx(HEALED * damage(high), rel=0.25)
    assert tried == sorted(tried)
    assert len(tried) <= 3
    assert all(share < mended for share in tried[:-1])
    best = best_record(records)
    assert best is not None
    assert best.origin.share == (tried[-1] if tried[-1] >= mended else high)


def test_coarse_steps_that_give_the_same_widths_twice_still_lead_to_mending() -> None:
    records = played(replace(OPTIONS, rounds=0, mends=1), 0.6, 0.3)
    assert isinstance(records[0].origin, Proposal)
    same = [replace(r, origin=replace(records[0].origin, number=r.origin.number)) for r in records[:6]]
    step = next_step(replace(OPTIONS, rounds=0, mends=1), None, same)
    assert step is not None
    assert step.phase == "mend"


def test_more_mended_models_grow_narrower_until_enough_hold_or_the_next_one_is_the_same() -> None:
    tried = shares(played(replace(OPTIONS, rounds=0, mends=3), 0.6, 0.05), "mend")
    assert tried == sorted(tried, reverse=True)
    assert len(tried) == 3
    tried = shares(played(replace(OPTIONS, rounds=0, mends=9), 0.6, 0.27), "mend")
    held = [share for share in tried if share >= 0.27]
    assert len(tried) - len(held) <= 3
    assert 0.27 <= min(held) < 0.29


def test_nothing_holds_and_the_dense_model_stays() -> None:
    assert best_record(played(OPTIONS, 2.0, 2.0)) is None


def test_a_given_budget_is_tried_moved_within_and_mended_once() -> None:
    records = played(OPTIONS, 0.0, 0.0, budget=0.3)
    phases = [(r.origin.phase, r.origin.number, r.origin.share) for r in records if isinstance(r.origin, Proposal)]
    assert phases == [("budget", 0, 0.3), ("move", 0, 0.3), ("move", 1, 0.3), ("mend", 0, 0.3)]


def test_the_next_step_is_the_same_after_any_number_of_trials() -> None:
    records = played(OPTIONS, 0.5, 0.4)
    for known in range(len(records)):
        step = next_step(OPTIONS, None, records[:known])
        assert step is not None
        origin = records[known].origin
        assert isinstance(origin, Proposal)
        assert step == Step(origin.phase, origin.number, origin.share)


def test_beyond_the_search_the_widest_gap_between_measured_budgets_is_halved() -> None:
    options = replace(OPTIONS, rounds=0, mend_steps=0)
    searched = played(options, 0.5, 2.0)
    records = played(replace(options, pareto=9), 0.5, 2.0)
    assert records[: len(searched)] == searched
    known = sorted([0.0, 1.0, *shares(records, "budget"), *shares(records, "pareto")])
    assert len(shares(records, "pareto")) == 9
    assert max(high - low for low, high in pairwise(known)) <= 1 / 8
    unknown = [replace(record, full_map=None) for record in searched]
    assert next_step(replace(options, pareto=1), None, unknown, least=0.2) == Step("pareto", 0, 0.6)


def test_what_is_asked_beyond_the_search_may_be_asked_later_and_changes_nothing_before() -> None:
    early, late = (replace(OPTIONS, pareto=number, refine=number) for number in (0, 4))
    assert early.to_dict() == late.to_dict()
    at_once, records = played(late, 0.5, 0.4), played(early, 0.5, 0.4)
    assert not asks_more(early, records)
    assert asks_more(late, records)
    while (step := next_step(late, None, records)) is not None:
        origin = Proposal(step.phase, step.number, step.share, damage(step.share), step.share >= 0.5)
        ap = 0.5 if origin.holds else 0.48
        records.append(Record(origin, {}, ap, ap, 0.5, 1, 1, 1, 1.0))
    assert records == at_once
    assert [r.origin.phase for r in records[-8:] if isinstance(r.origin, Proposal)] == ["pareto"] * 4 + ["refine"] * 4
    assert not asks_more(late, records)


def test_a_better_trial_beyond_the_search_does_not_start_the_search_again() -> None:
    options = replace(OPTIONS, mend_steps=0, pareto=1)
    records = played(options, 2.0, 2.0)  # nothing holds, so nothing was moved
    assert isinstance(records[-1].origin, Proposal)
    records[-1] = replace(records[-1], origin=replace(records[-1].origin, holds=True))
    assert next_step(options, None, records) is None
    assert best_record(records) == records[-1]


def test_settings_out_of_range_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"--map_tol is 1\.5"):
        replace(OPTIONS, map_tol=1.5)
    with pytest.raises(UserError, match=r"--target_flops is 0\b"):
        replace(OPTIONS, budget=0.0)
