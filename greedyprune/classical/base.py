"""What every classical method is asked: a detector and an amount to a smaller, or sparser, detector."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.errors import UserError
from greedyprune.families.base import Family
from greedyprune.pruning import scorers
from greedyprune.pruning.bench import Activations, Batches, Bench, Room
from greedyprune.pruning.scorers import Given
from greedyprune.ranges import SHARE_BELOW_ONE, Range
from greedyprune.sites import Change, HiddenSite, Site


@dataclass(frozen=True, eq=False)
class Subject:
    """A detector that is pruned, and what may be looked at for it.

    Attributes:
        family: of the detector.
        model: the detector, in eval mode; it is not changed.
        batches: calibration images, with targets for scores that need labels; None: there are none.
        scoring: other images, which tell the damage of cuts apart; None: the calibration images do.
        dense: the sites that amounts are shares of, where the model has lost some already; empty: its own.
        room: bytes of memory for cached activations.
        seed: of everything that is drawn.
    """

    family: Family
    model: nn.Module
    batches: Batches | None = None
    scoring: Batches | None = None
    dense: Sequence[Site] = ()
    room: int = 8 * 10**9
    seed: int = 0

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The sites of the model as it is, front to back."""
        return tuple(self.family.sites(self.model))

    @cached_property
    def whole(self) -> dict[str, Site]:
        """The sites that amounts are shares of, by name."""
        return {site.name: site for site in self.dense or self.sites}

    @property
    def convolutions(self) -> list[HiddenSite]:
        """The sites that are channels of convolutions.

        Raises:
            UserError: there are none.
        """
        found = [site for site in self.sites if isinstance(site, HiddenSite) and site.sort == "conv"]
        if not found:
            raise UserError(f"this {self.family.name} has no convolution whose filters can leave")
        return found

    @cached_property
    def given(self) -> Given:
        """What scorers look at; it is measured once, however many amounts are asked for.

        Raises:
            UserError: there are no calibration images.
        """
        images = Activations(self.bench, self.calibration, self.memory, last_only=False)
        return scorers.given(images, self.sites, self.seed)

    @cached_property
    def bench(self) -> Bench:
        """The detector as changes are put on it.

        Raises:
            UserError: there are no calibration images.
        """
        return Bench(self.family, self.model, self.sites, self.calibration)

    @property
    def calibration(self) -> Batches:
        """The calibration images.

        Raises:
            UserError: there are none.
        """
        if self.batches is None or not len(self.batches):
            raise UserError("this method looks at images, and there are none; give a data set")
        return self.batches

    @cached_property
    def memory(self) -> Room:
        """The budget that all cached images share."""
        return Room(self.room)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Measurements that do not depend on the amount, by name; methods keep them here."""
        return {}

    @cached_property
    def answers(self) -> list[Answer]:
        """The last layer's answers to the calibration images."""
        return [answer.last() for answer, _ in self.given.images.answers()]

    def after(self, model: nn.Module) -> "Subject":
        """What the detector has become, its amounts still shares of what it was."""
        return replace(self, model=model, dense=tuple(self.whole.values()))


@dataclass(frozen=True)
class Pruned:
    """What a method makes of a detector.

    Attributes:
        change: what is to be put on the detector.
        kept: of weights that stay as large as they were, where they are not zero: name -> bool of the weight's shape.
        cut: where `change` only writes zeros, what would cut the same; None: nothing would.
    """

    change: Change
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    cut: Change | None = None


class Method(ABC):
    """A way to prune.

    Attributes:
        name: what commands and tables call it.
        label: what it does, in a few words.
        amounts: the amounts that it takes: as a rule the share that goes.
        looks: it looks at calibration images,
        labelled: and at their labels.
    """

    name: str
    label: str
    amounts: Range = SHARE_BELOW_ONE
    looks: bool = False
    labelled: bool = False

    @abstractmethod
    def prune(self, subject: Subject, amount: float) -> Pruned:
        """How a detector is pruned; a pure function of the two.

        Args:
            subject: the detector.
            amount: one of `amounts`.

        Raises:
            UserError: the detector has nothing that the method prunes, or the method needs what it lacks.
        """

    def published(self, subject: Subject, amount: float) -> Pruned:
        """The same with the published code's rule, which may only write zeros.

        Raises:
            UserError: there is no such rule.
        """
        raise UserError(f"{self.name} has no published rule of its own; leave out --as_published")

    def apply(self, subject: Subject, amount: float) -> nn.Module:
        """A pruned copy of a detector; see `prune`.

        Raises:
            UserError: the amount is none that the method takes.
        """
        self.amounts.check(amount, f"{self.name}: the amount")
        return subject.family.slim(subject.model, self.prune(subject, amount).change)
