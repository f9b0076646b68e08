"""Records that follow one another as no search makes them are told by trial."""

from dataclasses import replace

import pytest
from greedyprune.pruning.sites import Site
from greedyprune.search.loop import check_growths, kept_so_far
from greedyprune.search.record import Growth, Proposal, Record
from greedyprune.search.steps import check_proposals

from .small_study import refusal

ORDER = [Site("encoder.0.attn", 8, 2, ()), Site("encoder.0.ffn", 6, 1, ())]
WIDTHS = {"encoder.0.attn": 8, "encoder.0.ffn": 6}


def record(origin: Growth | Proposal) -> Record:
    return Record(origin, WIDTHS, 0.5, 0.5, 0.5, 1, 1, 1, 1.0)


def grown(site: str, round_: int, kept: tuple[int, ...], done: bool = False) -> Record:
    return record(Growth(site, round_, kept, 1.0, done))


GROWN = [
    grown("encoder.0.attn", 0, (0, 4)),
    grown("encoder.0.attn", 1, (0, 1, 4, 7), True),
    grown("encoder.0.ffn", 0, (2, 3)),
]


def test_rounds_in_order_are_replayed() -> None:
    check_growths(ORDER, GROWN, "study 'x'")
    assert kept_so_far(ORDER, GROWN) == {"encoder.0.attn": (0, 1, 4, 7), "encoder.0.ffn": (0, 1, 2, 3, 4, 5)}


@pytest.mark.parametrize(
    ("number", "wrong", "words"),
    [
        (0, grown("encoder.0.ffn", 0, (1,)), "round 0 of encoder.0.ffn, where round 0 of encoder.0.attn comes next"),
        (1, grown("encoder.0.attn", 0, (0, 4)), "round 0 of encoder.0.attn, where round 1 of encoder.0.attn comes"),
        (1, grown("encoder.0.attn", 1, (1, 2, 5, 6)), "keeps not all the channels of the round before it"),
        (1, grown("encoder.0.attn", 1, (0, 1, 2, 4)), "heads keep different numbers"),
        (2, grown("encoder.0.ffn", 0, (5, 6)), "kept channels must be different numbers of 0..5"),
        (2, record(Proposal("budget", 0, 0.5, None, True)), "is not of schedule gp or modular"),
    ],
)
def test_a_round_that_does_not_follow_is_told(number: int, wrong: Record, words: str) -> None:
    records = [*GROWN[:number], wrong, *GROWN[number + 1 :]]
    line = refusal(check_growths, ORDER, records, "study 'x'")
    assert line.startswith(f"study 'x': trial {number}: ")
    assert words in line


def test_rounds_beyond_the_last_site_are_told() -> None:
    ended = [*GROWN[:2], replace(GROWN[2], origin=replace(GROWN[2].origin, done=True))]
    assert "trial 3: comes after the last site" in refusal(check_growths, ORDER, [*ended, GROWN[0]], "study 'x'")


def test_proposals_are_counted_within_their_phases() -> None:
    records = [record(Proposal(phase, n, 0.5, None, True)) for phase, n in (("budget", 0), ("budget", 1), ("mend", 0))]
    check_proposals(records, "study 'x'")
    assert "trial 2 is mend 0, where mend 1 comes" in refusal(
        check_proposals, records[:1] + records[2:] * 2, "study 'x'"
    )
    assert "trial 1 is not of schedule global" in refusal(check_proposals, [records[0], GROWN[0]], "study 'x'")
