"""Everything that the engine may ask of a detector."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.classes import Classes
from greedyprune.sites import Change, Layout, Site, put

Target = Mapping[str, Tensor]  # `labels` int64 [n] and `boxes` [n, 4] cxcywh in 0..1 of one image
Loss = Callable[[Answer, Sequence[Target]], Tensor]


@dataclass(frozen=True)
class Block:
    """A part of a detector that is mended by itself: it learns to give what the dense one's part gives.

    Attributes:
        ends: the module whose first call ends it.
        learns: modules whose parameters it has.
        label: what messages call it.
        chained: it begins where the block before it ends, and learns from what the mended ones before it give; else it
            is one module, and learns from what the dense one is given, at once with all others of this sort.
    """

    ends: str
    learns: tuple[str, ...]
    label: str
    chained: bool = True


class Family(ABC):
    """A kind of detector: what it is made of, what it answers, and how it is saved.

    Attributes:
        name: what messages call it.
        parts: the parts of a detector that sites belong to, front to back.
        searched: those that a search prunes unless told otherwise,
        published: and those that the published schedules prune.
        groups: names for several parts at once.
        measured: modules whose cost is told beside that of the whole: label -> the module's name.
    """

    name: str
    parts: tuple[str, ...]
    searched: tuple[str, ...]
    published: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = {}
    measured: Mapping[str, str] = {}

    @abstractmethod
    def owns(self, model: nn.Module) -> bool:
        """Whether a model is of this family."""

    @abstractmethod
    def sites(self, model: nn.Module) -> Sequence[Site]:
        """The sites of a model, front to back, with the widths that it has now as their full values."""

    @abstractmethod
    def layout(self, model: nn.Module) -> Layout:
        """The list form of the widths of a model and of its dense twin."""

    @abstractmethod
    def classes(self, model: nn.Module) -> Classes:
        """The classes of its labels."""

    @abstractmethod
    def sides(self, model: nn.Module) -> tuple[int, int]:
        """Images are resized so that their short side has so many pixels, and their long side at most so many."""

    @abstractmethod
    def inputs(self, model: nn.Module, images: Sequence[Tensor]) -> Any:
        """What the model is given for normalised images `[3, h, w]`: tensors, or tuples of them, on its device."""

    @abstractmethod
    def answer(self, model: nn.Module, inputs: Any, last_only: bool = False) -> Answer:
        """The model's answer, with a graph where gradients are on; with `last_only` without earlier layers' answers."""

    @abstractmethod
    def detections(self, model: nn.Module, answer: Answer, sizes: Tensor, top_k: int) -> list[dict[str, Tensor]]:
        """Detections of each image.

        Args:
            model: the model.
            answer: of a batch.
            sizes: `[B, 2]` height and width of the original images in pixels.
            top_k: detections of an image, at most.

        Returns:
            B dicts with `scores` [k] from high to low, `labels` int64 [k], `boxes` [k, 4] xyxy in pixels.
        """

    @abstractmethod
    def save(self, model: nn.Module, path: Path, extra: Mapping[str, str] | None = None) -> None:
        """Write a checkpoint that knows its shape; `extra` is more text to keep in it."""

    def reads(self, path: Path) -> bool:
        """Whether a file looks like a checkpoint of this family."""
        return False

    @abstractmethod
    def load(self, path: Path) -> nn.Module:
        """The model of a checkpoint of `save`, in eval mode on the CPU.

        Raises:
            UserError: the file cannot be used.
        """

    def loss(self, model: nn.Module) -> Loss | None:
        """The loss that the detector is trained with; None: there is none, and what needs labels is refused."""
        return None

    def blocks(self, model: nn.Module) -> Sequence[Block]:
        """Parts that can be mended one after another, front to back; a family may have none."""
        return ()

    def hints(self, model: nn.Module) -> Sequence[str]:
        """Modules whose first outputs are learned beside the answers while mending; a family may have none."""
        return ()

    def shown(self, model: nn.Module, inputs: Any, module: str, output: Tensor) -> Tensor | None:
        """Where an output of a submodule is of the image, not of padding.

        Args:
            model: the model.
            inputs: of the batch.
            module: the submodule's name.
            output: `[B, N, C]` of tokens or queries, or a map `[B, C, h, w]`.

        Returns:
            `[B, N]` or `[B, h, w]` bool; None: everywhere.
        """
        return None

    def deployed(
        self, model: nn.Module, size: tuple[int, int] | None = None, constant: Sequence[str] | None = None
    ) -> nn.Module:
        """A copy for inference alone, in eval mode: the same answers to rounding, sooner.

        Args:
            model: the model.
            size: height and width of every image that the copy gets, none of them padded; None: any.
            constant: what `constants` says, where that is known.
        """
        return deepcopy(model).eval()

    def folded(self, model: nn.Module) -> nn.Module:
        """A copy in eval mode that is called part by part as the model is, with batch norms in convolutions, say."""
        return deepcopy(model).eval()

    def constants(self, model: nn.Module, size: tuple[int, int] | None = None) -> Sequence[str]:
        """The modules that give the same for every image, which the deployed form has computed once."""
        return ()

    def slim(self, model: nn.Module, change: Change) -> nn.Module:
        """A copy of a model with a change put on it."""
        copied = deepcopy(model)
        put(copied, change)
        return copied
