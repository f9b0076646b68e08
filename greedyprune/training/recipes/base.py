"""What the training loop asks of a kind of detector."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from greedyprune.errors import UserError
from greedyprune.training.config import TrainOptions
from greedyprune.training.distributed import World


@dataclass(frozen=True)
class Moment:
    """A part of an optimizer step.

    Attributes:
        step: steps done before it.
        parts: of the step, in this process.
        boxes: targets of the whole step, at least 1, over the number of processes.
    """

    step: int
    parts: int
    boxes: float


class Lost(NamedTuple):
    """A loss.

    Attributes:
        total: what is differentiated.
        parts: of it, by name, for the log.
    """

    total: Tensor
    parts: dict[str, Tensor]


class Recipe(ABC):
    """How a kind of detector is trained.

    Args:
        model: the detector, on its device.
        options: of the training.
        world: the processes.

    Attributes:
        logged: names of the loss's parts.
        foreign: options that say nothing of this kind of detector, and are refused.
        module: what has all trained parameters: the detector, and what helps it in training alone.

    Raises:
        UserError: one of the foreign options is given.
    """

    logged: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    def __init__(self, model: nn.Module, options: TrainOptions, world: World) -> None:
        defaults = TrainOptions()
        for name in self.foreign:
            if getattr(options, name) != getattr(defaults, name):
                raise UserError(f"--{name} says nothing of {type(model).__name__}; leave it out")
        self.model, self.options, self.world = model, options, world
        self.module = model

    @staticmethod
    @abstractmethod
    def gather(images: list[Tensor], channels_last: bool) -> Any:
        """A batch of normalised images `[3, h, w]`, made where they are decoded."""

    @abstractmethod
    def network(self, compiled: bool) -> nn.Module:
        """The module that `loss` calls; its parameters are those of `module`."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Any, known: list[dict[str, Tensor]], moment: Moment) -> Lost:
        """The loss of a part of a step.

        Args:
            network: of `network`, in training mode.
            batch: of `gather`, where it was made.
            known: `labels` and `boxes` of each image, on the device.
            moment: which part of which step.
        """

    @property
    def normed(self) -> nn.Module:
        """The part whose batch norms are frozen where that is asked for."""
        return self.model

    def helpers(self) -> dict[str, dict[str, Tensor]]:
        """Tensors of what helps in training alone: part -> name -> tensor."""
        return {}

    def restore(self, tensors: dict[str, dict[str, Tensor]]) -> None:  # noqa: B027 (most have none)
        """Put back what `helpers` gave, among other parts."""
