"""Detectors of every family with batches for them, and how far two answers are apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.families.base import Family
from greedyprune.families.detr import DetrFamily
from greedyprune.pruning.bench import Activations, Bench, Room
from greedyprune.sites import Site

from .detectors import IMAGES, KINDS, TARGETS, detector
from .grid_family import GridDetector, GridFamily

GRID = "grid"
EVERY_KIND = (*KINDS, GRID)
PLENTY = 10**9


class Batches:
    """Batches in memory."""

    def __init__(self, *batches: tuple[Sequence[Tensor], list[dict[str, Any]]]) -> None:
        self.batches = batches

    @property
    def ids(self) -> Sequence[int]:
        return range(len(self))

    def __len__(self) -> int:
        return sum(len(images) for images, _ in self.batches)

    def iterate(self, first: int = 0) -> Iterator[tuple[Sequence[Tensor], list[dict[str, Any]]]]:
        yield from self.batches[first:]


@dataclass(frozen=True)
class Subject:
    """A detector, its family, and two images of it: of two sizes, where the family pads."""

    family: Family
    model: nn.Module
    images: list[Tensor]

    @property
    def sites(self) -> Sequence[Site]:
        return tuple(self.family.sites(self.model))

    def site(self, name: str) -> Site:
        return next(site for site in self.sites if site.name == name)

    def sorts(self) -> list[Site]:
        """One site of every sort: of each part, and each last part of a name."""
        found = {(s.part, s.kind, s.name.rpartition(".")[2], s.inside == ""): s for s in self.sites}
        return list(found.values())

    def part(self, *parts: str) -> list[Site]:
        return [site for site in self.sites if site.part in parts]

    def answer(self, model: nn.Module | None = None, images: Sequence[Tensor] | None = None) -> Answer:
        model = self.model if model is None else model
        with torch.no_grad():
            return self.family.answer(model, self.family.inputs(model, self.images if images is None else images))

    def batches(self, count: int = 3, seed: int = 3) -> Batches:
        """Batches of noise: the first and every second one padded, where the family pads."""
        draw = torch.Generator().manual_seed(seed)
        made = []
        for number in range(count):
            sizes = [image.shape if number % 2 == 0 else self.images[0].shape for image in self.images]
            made.append(([torch.randn(size, generator=draw) for size in sizes], TARGETS))
        return Batches(*made)

    def bench(self, batches: Batches | None = None, sites: Sequence[Site] | None = None) -> Bench:
        return Bench(self.family, self.model, self.sites if sites is None else sites, batches or self.batches())

    def activations(
        self, batches: Batches | None = None, sites: Sequence[Site] | None = None, room: int = PLENTY, last_only=False
    ) -> Activations:
        batches = batches or self.batches()
        images = Activations(self.bench(batches, sites), batches, Room(room), last_only)
        images.fill()
        return images


def subject(kind: str = "dn_detr", **options: Any) -> Subject:
    """Always the same weights."""
    if kind == GRID:
        torch.manual_seed(2)
        return Subject(GridFamily(), GridDetector(**options).eval(), [IMAGES[0], IMAGES[0].flip(2)])
    model = detector(kind, **options)
    if isinstance(model.input_proj, nn.Conv2d):  # without a norm after it
        with torch.no_grad():
            model.input_proj.weight.mul_(1e-3)  # tokens of thousands would leave the encoder no gradients
    return Subject(DetrFamily(), model, IMAGES)


@cache
def shared(kind: str = "dn_detr") -> Subject:
    """The same for all tests, none of which changes it."""
    return subject(kind)


def farthest(one: Answer, other: Answer) -> float:
    """The largest difference of two answers, of all their layers."""
    return max(
        (getattr(a, each) - getattr(b, each)).abs().max().item()
        for a, b in zip(one.layers(), other.layers(), strict=True)
        for each in ("logits", "boxes")
    )


def same_bits(one: Answer, other: Answer) -> bool:
    """Whether two answers are equal to the bit, and made of plain tensors."""
    pairs = [
        (getattr(a, e), getattr(b, e))
        for a, b in zip(one.layers(), other.layers(), strict=True)
        for e in ("logits", "boxes")
    ]
    return all(type(a) is type(b) is Tensor and torch.equal(a, b) for a, b in pairs)


def bits(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's tensors."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    """Whether a model has the tensors that it had, to the bit."""
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], tensor) for name, tensor in before.items())
