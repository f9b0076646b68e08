"""Everything that the engine may ask of a detector."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.classes import Classes
from greedyprune.errors import UserError
from greedyprune.image_form import ImageForm, Sides
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


@dataclass(frozen=True)
class Asked:
    """What a command line says of a checkpoint, beside its path.

    Attributes:
        cfgs: the widths that are expected, in the family's list form; None: any.
        options: what else was given, by the flags' names; see `Family.opening`.
    """

    cfgs: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


class Family(ABC):
    """A kind of detector: what it is made of, what it answers, and how it is saved.

    Attributes:
        name: what messages call it.
        parts: the parts of a detector that sites belong to, front to back.
        searched: those that a search prunes unless told otherwise,
        published: and those that the published schedules prune.
        groups: names for several parts at once.
        measured: modules whose cost is told beside that of the whole: label -> the module's name.
        kinds: the names of its detectors, as `--model` takes them.
        opening: the flags that say what a checkpoint of this family may not say itself; others are refused.
    """

    name: str
    parts: tuple[str, ...]
    searched: tuple[str, ...]
    published: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = {}
    measured: Mapping[str, str] = {}
    kinds: tuple[str, ...] = ()
    opening: tuple[str, ...] = ()

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

    def form(self, model: nn.Module) -> ImageForm:
        """Size and normalisation of images; by default the sides, and ImageNet's mean and deviation."""
        return ImageForm(Sides(*self.sides(model)))

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

    def open(self, path: Path, asked: Asked) -> nn.Module:
        """The model of a checkpoint as a command line asks for it, in eval mode on the CPU.

        Raises:
            UserError: the file cannot be used, an option is none of this family's, or the widths are not those asked
                for: names the first site that differs.
        """
        self.refuse(path, asked)
        model = self.load(path)
        self.expect(model, path, asked.cfgs)
        return model

    def refuse(self, path: Path, asked: Asked) -> None:
        """Refuse options that say nothing to this family.

        Raises:
            UserError: names the first one.
        """
        for name in asked.options:
            if name not in self.opening:
                raise UserError(f"--{name} says nothing of checkpoint {path}, which is of a {self.name}; leave it out")

    def expect(self, model: nn.Module, path: Path, cfgs: Any) -> None:
        """Refuse other widths than the caller expects; None: any will do.

        Raises:
            UserError: names the first site that differs.
        """
        have = self.widths(model)
        for site, width in {} if cfgs is None else self.layout(model).parse(cfgs, "--cfgs").items():
            if have[site] != width:
                raise UserError(
                    f"--cfgs does not match checkpoint {path}: {site} is {width} in --cfgs and {have[site]} in the "
                    "checkpoint"
                )

    def masks(self, path: Path, asked: Asked) -> dict[str, Tensor]:
        """Site name -> mask `[width]` of a published search-time checkpoint, > 0 where a channel is kept; else none."""
        return {}

    def widths(self, model: nn.Module) -> dict[str, int]:
        """The width of every site of the dense twin; 0: it is gone."""
        return {site.name: site.full for site in self.sites(model)}

    def kind(self, model: nn.Module) -> str:
        """The name of a detector among `kinds`."""
        return self.kinds[0] if self.kinds else self.name

    def is_dense(self, model: nn.Module) -> bool:
        """Whether nothing was removed from a detector, as far as it says."""
        return True

    def settings(self, model: nn.Module) -> dict[str, Any]:
        """What tells a detector from others of its kind, beside its weights: JSON values by name."""
        return {"cfgs": self.widths(model)}

    def with_classes(self, model: nn.Module, classes: Classes, kept: Mapping[int, int]) -> nn.Module:
        """A detector for other classes: what depends on them is made anew, everything else is kept.

        Args:
            model: the detector; it is not changed.
            classes: the other classes, with ids and names.
            kept: labels of `classes` -> labels of `model` that they start from.

        Raises:
            UserError: the family cannot do that.
        """
        raise UserError(f"a {self.name} cannot be given other classes; train a new one for them")

    def loss(self, model: nn.Module) -> Loss | None:
        """The loss that the detector is trained with, over the number of images or objects of a batch.

        None: there is none, and what needs labels is refused.
        """
        return None

    def saw(self, model: nn.Module, images: int) -> None:  # noqa: B027 (most have no use for it)
        """Told before the loss of a training step how many more images the model was trained on."""

    def scales(self, model: nn.Module) -> Sequence[tuple[int, int]]:
        """Heights and widths of images that training at several scales chooses from; empty: it is not done so."""
        return ()

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

    def removable(self, model: nn.Module) -> Sequence[str]:
        """Labels of the parts that no site describes and that a detector runs without, front to back.

        What such a part reads has the shape of what it gives, so that the one can stand in the other's place.
        """
        return ()

    def without(self, model: nn.Module, parts: Collection[str]) -> Change:
        """What takes some of the `removable` parts out of a detector."""
        return Change()

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
