"""Trials: finished proposals of a search, in order. Everything else that it knows follows from them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Grown:
    """A round of a site that grows channel by channel.

    Attributes:
        site: the site that grew.
        round: its round, from 0.
        kept: the site's kept channels after this round, ascending.
        loss: detection loss of the best candidate on the scoring images; None when there was no choice: all candidates
            were added, or the site went back to dense.
        done: the site is finished with this kept set.
    """

    site: str
    round: int
    kept: tuple[int, ...]
    loss: float | None
    done: bool


@dataclass(frozen=True)
class Trial:
    """One proposal that was evaluated and recorded.

    Attributes:
        phase: the name of the phase that proposed it.
        step: its number within the phase, from 0.
        widths: site name -> width of the whole proposed model.
        share: share of the sites' dense cost that its widths have.
        holds: it is what the search is for: its AP is high enough, or the best so far within the budget.
        subset_map: AP on the validation subset.
        full_map: AP on all validation images; None when the early skip left it out.
        target: AP that it must hold.
        params: parameters of the proposed model.
        flops: its multiply-adds for one image, in the deployed form.
        image_forwards: images that went through the detector, or a part of it, for this proposal.
        seconds: time it took, without recording.
        predicted: the damage that its widths should do, by the damage table; None: they are not of a table.
        grown: the round of the site that grew; None: the proposal is one for all sites at once.
    """

    phase: str
    step: int
    widths: dict[str, int]
    share: float
    holds: bool
    subset_map: float
    full_map: float | None
    target: float
    params: int
    flops: int
    image_forwards: int
    seconds: float
    predicted: float | None = None
    grown: Grown | None = None


@dataclass(frozen=True)
class Baseline:
    """The dense model as measured before the first proposal.

    Attributes:
        subset_map: AP on the validation subset.
        full_map: AP on all validation images.
        image_forwards: images it took.
        seconds: time it took.
    """

    subset_map: float
    full_map: float
    image_forwards: int
    seconds: float

    @property
    def subset_ratio(self) -> float:
        """AP of the subset by that of all images: what the subset is held to is scaled by it."""
        return self.subset_map / self.full_map if self.full_map > 0 else 1.0


def of_phase(trials: Iterable[Trial], *phases: str) -> list[Trial]:
    """The trials of some phases, in order."""
    return [trial for trial in trials if trial.phase in phases]


def last_held(trials: Sequence[Trial]) -> Trial | None:
    """The last of the trials that hold; None: none does."""
    return next((trial for trial in reversed(trials) if trial.holds), None)
