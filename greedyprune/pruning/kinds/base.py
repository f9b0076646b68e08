"""What the engine asks of a kind of site; one file a kind."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from torch import Tensor, nn

from greedyprune.errors import UserError
from greedyprune.sites import Change, Site

if TYPE_CHECKING:
    from greedyprune.pruning.kinds.channels import SiteMoments
    from greedyprune.pruning.scorers.given import Given

State = Mapping[str, Tensor]
AnySite = TypeVar("AnySite", bound=Site)


class SiteCut(Protocol):
    """Everything that is known about cutting one site of a dense model."""

    @property
    def site(self) -> Site: ...

    def change(self, width: int, state: State) -> Change:
        """What makes the site as wide.

        Args:
            width: any that the site can have.
            state: the model's tensors as the sites before this one left them, which this one cuts further; see
                `Trimmed`.
        """
        ...


class Meter(ABC):
    """Statistics of what passes through a site, over any number of batches.

    Attributes:
        moments: what was counted so far.
        weighted: it takes gradients of the answer.
    """

    moments: "SiteMoments"
    weighted: bool = True

    @abstractmethod
    def watch(self, model: nn.Module, stack: ExitStack) -> None:
        """Listen to the site in every forward pass until the stack is closed."""

    @abstractmethod
    def forget(self) -> None:
        """Forget the pass at hand: another one begins."""

    @property
    @abstractmethod
    def probes(self) -> Sequence[Tensor]:
        """Of the pass at hand, tensors whose gradients are those of what the site's readers gave."""

    @abstractmethod
    def count(self, gradients: Sequence[Sequence[Tensor]], padding: "Padding") -> None:
        """Count the pass at hand in, and forget it.

        Args:
            gradients: for each random projection of the answer the gradient of every probe.
            padding: tells where outputs are of the image.
        """


class Padding(Protocol):
    """Where a module's output `[B, N, C]` or `[B, C, h, w]` is of the image: `[B, N]` or `[B, h, w]`; None: all."""

    def __call__(self, module: str, output: Tensor) -> Tensor | None: ...


class Kind(ABC, Generic[AnySite]):
    """What can be done with the sites of one kind."""

    def meter(self, site: AnySite, model: nn.Module) -> Meter | None:
        """Counts what a cut of the site needs to know; None: nothing."""
        return None

    @abstractmethod
    def cut(self, site: AnySite, given: "Given", scorer: str, refit: bool) -> SiteCut:
        """How the site is cut.

        Args:
            site: the site.
            given: the dense model and its statistics.
            scorer: one of `SCORERS`.
            refit: solve what reads the kept channels again.
        """

    @abstractmethod
    def kept_change(self, site: AnySite, state: State, kept: Sequence[int]) -> Change:
        """What leaves of a site only what is kept, without changing what that does.

        Args:
            site: the site, with the width that `state` has.
            state: tensors by name.
            kept: ascending channels, items, or for a ratio as many numbers as its width.
        """

    @abstractmethod
    def masked_change(self, site: AnySite, state: State, kept: Sequence[int]) -> Change:
        """What switches all but the kept off and makes nothing smaller; see `kept_change`."""

    def check_kept(self, site: AnySite, kept: Iterable[int]) -> tuple[int, ...]:
        """A kept set, ascending.

        Raises:
            UserError: it is none of the site's.
        """
        return check_numbers(site, kept)

    def first(self, site: AnySite, width: int) -> tuple[int, ...]:
        """A kept set of a width: which one makes no difference to the cost."""
        return tuple(range(width))


def check_numbers(site: Site, kept: Iterable[int]) -> tuple[int, ...]:
    """A kept set, ascending.

    Raises:
        UserError: it is too small, or names a number twice or one that is not there.
    """
    numbers = tuple(sorted(kept))
    if len(numbers) < site.least:
        raise UserError(f"site {site.name} keeps {len(numbers)} of {site.full}; it needs at least {site.least}")
    if len(set(numbers)) != len(numbers) or (numbers and not 0 <= numbers[0] <= numbers[-1] < site.full):
        raise UserError(f"site {site.name}: what is kept must be different numbers of 0..{site.full - 1}")
    return numbers
