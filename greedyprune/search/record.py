"""What a search knows: finished proposals, in order. Everything else follows from them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from greedyprune.ranges import Amount, CountOrNone, Finite, Range

AP = Range(float, -1, 1)  # COCO's, where -1 says that there was nothing to find
Ap = Annotated[float, AP]


PHASES = ("budget", "move", "mend", "pareto", "refine")


@dataclass(frozen=True)
class Growth:
    """A round of a site that grows channel by channel: what `gp` and `modular` propose.

    Attributes:
        site: the site that grew.
        round: its round, from 0.
        kept: the site's kept channels after this round, ascending.
        loss: detection loss of the best candidate on the scoring images; None when there was no choice: all candidates
            were added, or the site went back to dense.
        done: the site is finished with this kept set.
    """

    site: str
    round: CountOrNone
    kept: tuple[int, ...]
    loss: Finite | None
    done: bool


@dataclass(frozen=True)
class Proposal:
    """Widths for the whole model at once: what `global` proposes.

    Attributes:
        phase: `budget` while the budget is searched, `move` when channels go from one site to another, `mend` when the
            slim model is mended before it is evaluated, `pareto` when budgets are spread over all there are, `refine`
            when one of Optuna's samplers proposed it.
        number: its number within the phase, from 0.
        share: share of the sites' dense cost that its widths have.
        predicted: the damage that its widths should do, by the damage table; None: they are not of a table.
        holds: it is what the search is for: its AP is high enough, or the best so far within the budget.
    """

    phase: str
    number: CountOrNone
    share: Finite
    predicted: Finite | None
    holds: bool


@dataclass(frozen=True)
class Record:
    """One proposal that was evaluated and recorded: a trial.

    Attributes:
        origin: how it came about.
        widths: site name -> width of the whole proposed model.
        subset_map: AP on the validation subset.
        full_map: AP on all validation images; None when the early skip left it out.
        target: AP that it must hold.
        params: parameters of the proposed model.
        flops: its multiply-adds for one image.
        image_forwards: images that went through (a part of) the Transformer for this proposal.
        seconds: time it took, without recording.
    """

    origin: Growth | Proposal
    widths: dict[str, int]
    subset_map: Ap
    full_map: Ap | None
    target: Ap
    params: CountOrNone
    flops: CountOrNone
    image_forwards: CountOrNone
    seconds: Amount


@dataclass(frozen=True)
class Baseline:
    """The dense model as measured before the first proposal.

    Attributes:
        subset_map: AP on the validation subset.
        full_map: AP on all validation images.
        image_forwards: images it took.
        seconds: time it took.
    """

    subset_map: Ap
    full_map: Ap
    image_forwards: CountOrNone
    seconds: Amount

    @property
    def subset_ratio(self) -> float:
        """AP of the subset by that of all images: what the subset is held to is scaled by it."""
        return self.subset_map / self.full_map if self.full_map > 0 else 1.0


def growths(records: Iterable[Record]) -> list[Growth]:
    """How each proposal of `gp` or `modular` came about."""
    return [record.origin for record in records if isinstance(record.origin, Growth)]
