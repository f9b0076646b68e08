"""Phases: what a search tries next, how that is made, and whether it holds."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from greedyprune.errors import UserError
from greedyprune.search.options import SearchOptions
from greedyprune.sites import Change
from greedyprune.study.trial import Baseline, Grown, Trial, last_held

if TYPE_CHECKING:
    from greedyprune.search.workshop import Workshop

FIT = 1 + 1e-9  # sums in floating point: a budget that is met exactly must hold


@dataclass(frozen=True)
class Ask:
    """What a phase wants tried.

    Attributes:
        step: its number within the phase, from 0.
        share: share of the sites' dense cost that the widths may have.
    """

    step: int
    share: float = 1.0


@dataclass(frozen=True)
class Proposal:
    """A model that is tried.

    Attributes:
        widths: site name -> width, of every site.
        change: what makes the dense model as wide.
        predicted: the damage that it should do; None: nothing predicts it.
        grown: the round of the site that grew, as far as it is known before the evaluation; None: none did.
    """

    widths: dict[str, int]
    change: Change
    predicted: float | None = None
    grown: Grown | None = None


@dataclass(frozen=True)
class Verdict:
    """What an evaluation found.

    Attributes:
        target: AP that was to be held.
        subset_map: AP on the validation subset.
        full_map: AP on all validation images; None: skipped.
        holds: the proposal is what the search is for.
        grown: the round of the site that grew, as it ended.
    """

    target: float
    subset_map: float
    full_map: float | None
    holds: bool
    grown: Grown | None = None


@dataclass(frozen=True)
class Story:
    """What a phase may look at.

    Attributes:
        baseline: the dense model.
        trials: so far, in order.
        least: share of the sites' cost that their least widths have.
        budget: the given budget as a share of the sites' cost; None: there is none.
    """

    baseline: Baseline
    trials: Sequence[Trial]
    least: float
    budget: float | None

    def of(self, *phases: str) -> list[Trial]:
        """The trials of some phases."""
        return [trial for trial in self.trials if trial.phase in phases]


class Phase(ABC):
    """One way to go on. `next` is a pure function of the options and the trials: a search that was killed goes on.

    Args:
        options: the search's.
    """

    name: ClassVar[str]  # in studies and messages
    colour: ClassVar[str]  # of its trials in plots
    label: ClassVar[str]  # of its trials in plots' legends
    own_model: ClassVar[bool] = False  # its models are more than their widths: no other trial of the same is the same

    def __init__(self, options: SearchOptions) -> None:
        self.options = options

    @abstractmethod
    def next(self, story: Story) -> Ask | None:
        """What to try next; None: nothing more, as things are."""

    @abstractmethod
    def propose(self, ask: Ask, story: Story, workshop: "Workshop") -> Proposal:
        """The model that is asked for."""

    def check(self, trial: Trial, story: Story) -> None:
        """Check that a stored trial is one that this phase makes after those of the story.

        Raises:
            UserError: says what of it is not.
        """
        following = len(story.of(self.name))
        if trial.step != following:
            raise UserError(f"is {self.name} {trial.step}, where {self.name} {following} comes next")
        if trial.grown is not None:
            raise UserError(f"says that {trial.grown.site} grew, and in phase {self.name} nothing does")

    def again(self, trial: Trial, trials: Sequence[Trial], workshop: "Workshop") -> Change:
        """What makes the dense model into that of a trial of this phase."""
        return workshop.cutter.change(trial.widths)

    def judge(self, proposal: Proposal, story: Story, workshop: "Workshop") -> Verdict:
        """Evaluate a proposal: on the subset, and if that is good enough on all validation images."""
        target = self.target(story)
        known = None if self.own_model else same_model(proposal.widths, story.trials)
        if known is not None and (known.full_map is not None or not self.measures_all()):
            subset_map, full_map = known.subset_map, known.full_map
        else:
            subset_map, full_map = self._measured(proposal.change, target, story, workshop)
        return Verdict(target, subset_map, full_map, self._holds(full_map, target, proposal, story, workshop))

    def target(self, story: Story) -> float:
        """AP that is to be held."""
        return (1 - self.options.map_tol) * story.baseline.full_map

    def measures_all(self) -> bool:
        """Whether AP is measured on all validation images, however low it is on the subset."""
        return self.options.budget is not None

    def rival(self, story: Story) -> Trial | None:
        """The trial than which a proposal must be cheaper; None: any that is good enough holds."""
        return None

    def _measured(
        self, change: Change, target: float, story: Story, workshop: "Workshop"
    ) -> tuple[float, float | None]:
        least = 0.0 if self.measures_all() else (1 - self.options.gate) * target * story.baseline.subset_ratio
        subset_map, found = workshop.evaluator.subset_map(change)
        return subset_map, None if subset_map < least else workshop.evaluator.full_map(found, change)

    def _holds(
        self, full_map: float | None, target: float, proposal: Proposal, story: Story, workshop: "Workshop"
    ) -> bool:
        if full_map is None:
            return False
        best = last_held(story.trials)
        if self.options.budget is not None:
            within = workshop.saving.share_with(proposal.widths) <= self.options.budget * FIT
            return within and (best is None or best.full_map is None or full_map > best.full_map)
        rival = self.rival(story)
        return full_map >= target and (rival is None or workshop.share(proposal.widths) < rival.share)


def same_model(widths: dict[str, int], trials: Sequence[Trial]) -> Trial | None:
    """A trial of the same widths whose model is nothing but that: what it measured need not be measured again."""
    return next((trial for trial in trials if trial.widths == widths and trial.phase != "mend"), None)
