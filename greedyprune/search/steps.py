"""What the `global` schedule does next: pure functions of its options and of the trials so far."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import log
from typing import Annotated, Any

import numpy as np

from greedyprune.errors import UserError
from greedyprune.ranges import Count, CountOrNone, Range, Seed, ShareBelowOne, check_ranges
from greedyprune.search.record import PHASES, Proposal, Record
from greedyprune.search.stored import REMEDY

COSTS = ("flops", "params", "latency")
BUDGET = Range(float, 0, 1, below=True, above=True)  # share of the dense model's cost
HALVINGS = 6  # of the interval of budgets: the least that holds is found to within 1/64 of what the sites cost
PACES = (0.04, 0.02, 0.01)  # shares of the sites' cost that a move tries to save, one after another
SEARCHED = ("budget", "move", "mend")  # the phases of the search itself; what is asked beyond it comes after them
SAMPLERS = ("tpe", "nsgaii")
HEALED = 4.9  # times the damage that the best unmended widths do is what mended ones are first tried with
MEND_PACE = 0.04  # share of the sites' cost by which mended widths get narrower while all held
FAILED_MENDS = 3  # after so many the search is at its end


@dataclass(frozen=True)
class GlobalOptions:
    """Everything about the global schedule that decides the result of a search.

    Attributes:
        map_tol: share of the dense AP that the slim model may lose.
        budget: share of the dense model's cost that the slim one may have; None: the least that holds `map_tol`.
        cost: what is saved: one of `COSTS`.
        skip_eval_converge: the full evaluation is skipped while the subset's AP is below (1 - this) * target.
        rounds: moves that are tried at most, after the budget is found.
        attn_step: channels by which the width of an attention site changes, over all heads.
        ffn_step: channels by which that of an FFN changes.
        conv_step: channels by which that of a backbone site changes.
        scorer: how a site is cut.
        refit: what reads the kept channels is solved again.
        mend_steps: steps of mending; 0: none.
        mends: mended proposals that are to hold, narrower than the best unmended one; with a budget one is tried.
        seed: of everything that is drawn.
        pareto: proposals that spread over all budgets, after the search.
        refine: proposals by one of Optuna's samplers, after those.
        sampler: which: one of `SAMPLERS`.
    """

    map_tol: ShareBelowOne
    budget: Annotated[float, BUDGET] | None
    cost: str
    skip_eval_converge: ShareBelowOne
    rounds: CountOrNone
    attn_step: Count
    ffn_step: Count
    conv_step: Count
    scorer: str
    refit: bool
    mend_steps: CountOrNone
    mends: CountOrNone
    seed: Seed
    pareto: CountOrNone = 0
    refine: CountOrNone = 0
    sampler: str = "tpe"

    def __post_init__(self) -> None:
        check_ranges(self, lambda name: f"--target_{self.cost}" if name == "budget" else f"--{name}")

    def step(self, kind: str) -> int:
        """The step of a site's width, by its kind."""
        return {"ffn": self.ffn_step, "conv1": self.conv_step, "conv2": self.conv_step}.get(kind, self.attn_step)

    def to_dict(self) -> dict[str, Any]:
        """For a study's settings: all but what is asked beyond the search, with which a finished study goes on."""
        beyond = ("pareto", "refine", "sampler")
        return {"schedule": "global", **{name: value for name, value in asdict(self).items() if name not in beyond}}


@dataclass(frozen=True)
class Step:
    """What to evaluate next.

    Attributes:
        phase: `budget`, `move`, `mend`, `pareto` or `refine`; see `Proposal`.
        number: its number within the phase, from 0.
        share: share of the sites' dense cost that its widths may have.
    """

    phase: str
    number: int
    share: float


def proposals(records: Sequence[Record], phase: str = "") -> list[Proposal]:
    """How each trial of the global schedule, or of one of its phases, came about."""
    found = [record.origin for record in records if isinstance(record.origin, Proposal)]
    return [proposal for proposal in found if phase in ("", proposal.phase)]


def check_proposals(records: Sequence[Record], place: str) -> None:
    """Check that records are proposals, numbered within their phases.

    Args:
        records: a study's, each of the right types.
        place: the study, for messages.

    Raises:
        UserError: names the first trial that is something else.
    """
    numbers = dict.fromkeys(PHASES, 0)
    for number, record in enumerate(records):
        proposal = record.origin
        if not isinstance(proposal, Proposal):
            raise UserError(f"{place}: trial {number} is not of schedule global; {REMEDY}")
        if proposal.number != numbers[proposal.phase]:
            wrong = (
                f"is {proposal.phase} {proposal.number}, where {proposal.phase} {numbers[proposal.phase]} comes next"
            )
            raise UserError(f"{place}: trial {number} {wrong}; {REMEDY}")
        numbers[proposal.phase] += 1


def best_record(records: Sequence[Record], mended: bool = True) -> Record | None:
    """The trial that the search would end with now: the last of those that hold.

    Args:
        records: the trials in order.
        mended: mended ones count, too.
    """
    held = [r for r in records if isinstance(r.origin, Proposal) and r.origin.holds]
    held = [r for r in held if mended or not is_mended(r)]
    return held[-1] if held else None


def is_mended(record: Record) -> bool:
    """Whether a trial's AP is that of a mended model."""
    return isinstance(record.origin, Proposal) and record.origin.phase == "mend"


def same_model(widths: Mapping[str, int], records: Sequence[Record]) -> Record | None:
    """An unmended trial of the same widths: what it measured need not be measured again."""
    for record in records:
        if record.widths == widths and not is_mended(record):
            return record
    return None


def next_step(
    options: GlobalOptions, budget_share: float | None, records: Sequence[Record], least: float = 0.0
) -> Step | None:
    """What follows from the records; None: the search is at its end.

    First the budget: the interval between the least share of the cost that held and the greatest that did not is
    halved. Then moves: from the best proposal they try to save `PACES` of the cost, a smaller pace after each that did
    not hold, until the smallest one has failed or the rounds are spent; within a given budget they save nothing, and
    the first that is no better is the last. Then mending, of narrower widths than the best: see `_next_mend`.

    That is the search for one tolerance or one budget; nothing that is asked beyond it changes it. `pareto` goes on
    with the middle of the widest gap between shares whose AP is known, dense among them, and `refine` with what a
    sampler proposes. Neither depends on how many are asked for: asking for more later ends with the same trials.

    Args:
        options: the schedule.
        budget_share: the given budget as a share of the sites' cost; None: there is none.
        records: the trials in order.
        least: share of the sites' cost that their least widths have.
    """
    searched = [r for r in records if isinstance(r.origin, Proposal) and r.origin.phase in SEARCHED]
    step = _next_searched(options, budget_share, searched)
    if step is not None or not asks_more(options, records):
        return step
    spread = proposals(records, "pareto")
    if len(spread) < options.pareto:
        return Step("pareto", len(spread), _widest_gap(records, least))
    return Step("refine", len(proposals(records, "refine")), 1.0)


def asks_more(options: GlobalOptions, records: Sequence[Record]) -> bool:
    """Whether a search that has found its best goes on, with `pareto` or `refine`."""
    return any(len(proposals(records, phase)) < getattr(options, phase) for phase in ("pareto", "refine"))


def _widest_gap(records: Sequence[Record], least: float) -> float:
    unmended = [r for r in records if r.full_map is not None and share_of(r) > least and not is_mended(r)]
    known = sorted({least, *(share_of(record) for record in unmended), 1.0})
    _, low, high = max((high - low, low, high) for low, high in pairwise(known))
    return (low + high) / 2


def _next_searched(options: GlobalOptions, budget_share: float | None, records: Sequence[Record]) -> Step | None:
    tried = proposals(records, "budget")
    if budget_share is not None and not tried:
        return Step("budget", 0, budget_share)
    if budget_share is None and len(tried) < HALVINGS:
        return Step("budget", len(tried), _halve(tried))
    unmended = best_record(records, mended=False)
    mends = proposals(records, "mend")
    if not mends:
        move = _next_move(options, budget_share, unmended, proposals(records, "move"))
        if move is not None:
            return move
    if not options.mend_steps or not options.mends:
        return None
    if budget_share is not None:
        return None if mends else Step("mend", 0, budget_share)
    return _next_mend(options, unmended, tried, [record for record in records if is_mended(record)])


def _next_mend(
    options: GlobalOptions, unmended: Record | None, tried: Sequence[Proposal], mended: Sequence[Record]
) -> Step | None:
    """Mended widths whose damage, unmended, is `HEALED` times that of the best; then narrower ones while they hold.

    Mending is dear, so as few as are wanted are tried: what fails is followed by something wider.
    """
    held = sum(mend.holds for mend in proposals(mended))
    if held >= options.mends or len(mended) - held >= FAILED_MENDS:
        return None
    low, high = 0.0, 1.0 if unmended is None else share_of(unmended)
    asked = _healed_share(unmended, tried)
    for record, mend in zip(mended, proposals(mended), strict=True):
        if mend.holds:
            high = asked
            asked = (low + high) / 2 if low else high - MEND_PACE
        else:
            low = asked
            asked = low + _missing_share(options, record, low)
            asked = asked if asked < high else (low + high) / 2
    return Step("mend", len(mended), asked) if high - low > MEND_PACE / 4 and asked > 0 else None


def _missing_share(options: GlobalOptions, record: Record, share: float) -> float:
    """How much wider must be what failed: on the way up to the dense AP, the AP rises no slower at first than later."""
    if record.full_map is None:
        return 2 * MEND_PACE
    dense = record.target / (1 - options.map_tol)
    return (1 - share) * (record.target - record.full_map) / max(dense - record.full_map, 1e-9)


def _healed_share(unmended: Record | None, tried: Sequence[Proposal]) -> float:
    """Where the damage that the table predicts is `HEALED` times that of the best; its logarithm is linear between."""
    known = sorted({p.share: p.predicted for p in tried if p.predicted}.items())  # coarse steps give a share twice
    if unmended is None or len(known) < 2:
        return max((p.share for p in tried), default=1.0)
    shares, logs = [share for share, _ in known], [log(damage) for _, damage in known]
    aim = np.interp(share_of(unmended), shares, logs) + log(HEALED)
    # Beyond the least share that was tried the damage rises as between the two least.
    slope = min((logs[1] - logs[0]) / (shares[1] - shares[0]), -1e-9)
    beyond = shares[0] + (aim - logs[0]) / slope
    return float(beyond if aim > logs[0] else np.interp(-aim, [-log_ for log_ in logs], shares))


def share_of(record: Record) -> float:
    """Share of the sites' dense cost that a trial's widths have."""
    assert isinstance(record.origin, Proposal)
    return record.origin.share


def _halve(tried: Sequence[Proposal]) -> float:
    low, high = 0.0, 1.0
    for proposal in tried:
        asked = (low + high) / 2
        low, high = (low, asked) if proposal.holds else (asked, high)
    return (low + high) / 2


def _next_move(
    options: GlobalOptions, budget_share: float | None, best: Record | None, moves: Sequence[Proposal]
) -> Step | None:
    if best is None or len(moves) >= options.rounds:
        return None
    failed = 0
    for move in moves:
        failed = 0 if move.holds else failed + 1
    if budget_share is not None:
        return None if failed else Step("move", len(moves), budget_share)
    return Step("move", len(moves), share_of(best) - PACES[failed]) if failed < len(PACES) else None
