"""What the parts of a detector hand to each other: image tokens, their levels, and queries."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from greedyprune.answer import Answer


class Levels(NamedTuple):
    """Feature maps of several sizes, their tokens one level after another and row by row.

    Attributes:
        shapes: height and width of every level.
        valid: `[B, L, 2]` share of each level's width and height that is image, not padding.
        centres: `[B, M, 2]` centre (x, y) of every token's cell, in 0..1 of its own unpadded image.
        shown: `[B, M]` bool, True where there is image; None: everywhere.
    """

    shapes: tuple[tuple[int, int], ...]
    valid: Tensor
    centres: Tensor
    shown: Tensor | None

    @property
    def sizes(self) -> list[int]:
        """Tokens of every level."""
        return [height * width for height, width in self.shapes]

    def scale(self, reference: Tensor) -> Tensor:
        """Points or boxes `[B, N, 2 or 4]` of the unpadded image in every padded level: `[B, N, L, 2 or 4]`."""
        valid = self.valid if reference.shape[-1] == 2 else torch.cat((self.valid, self.valid), dim=-1)
        return reference[:, :, None] * valid[:, None]


class Features(NamedTuple):
    """Input of the Transformer for a batch of images.

    Attributes:
        tokens: `[B, M, dim]` projected backbone features.
        pos: `[B, M, dim]` their position embedding.
        shown: `[B, 1, 1, M]` bool, True where there is image; None: everywhere.
        levels: where the tokens lie, for deformable attention; None: the model has none.
    """

    tokens: Tensor
    pos: Tensor
    shown: Tensor | None
    levels: Levels | None = None

    @property
    def pyramid(self) -> Levels:
        """The levels of a model that has them."""
        if self.levels is None:
            raise ValueError("deformable attention needs features with levels")
        return self.levels


@dataclass(frozen=True)
class DenoisingQueries:
    """Queries made of the targets, in the order group by group, each group padded to the largest image.

    Attributes:
        content: `[B, P, dim]`; zeros where padded.
        reference: `[B, P, 4]` noised boxes, cxcywh in 0..1.
        self_shown: `[P + Q, P + Q]` bool, True where a query may look at another.
        image: `[K]` image of each of the K = scalar * targets known queries.
        query: `[K]` its place among the P.
        labels: `[K]` its label before the noise.
        boxes: `[K, 4]` its box before the noise.
        groups: number of groups.
    """

    content: Tensor
    reference: Tensor
    self_shown: Tensor
    image: Tensor
    query: Tensor
    labels: Tensor
    boxes: Tensor
    groups: int


class Queries(NamedTuple):
    """Input of the decoder beside the memory.

    Attributes:
        content: `[B, N, dim]`.
        reference: `[B, N, 4]` boxes (cxcywh in 0..1), or `[B, N, 2]` points.
        pos: `[B, N, dim]` position embedding of every layer; None: each layer makes its own from the boxes.
        proposals: answer `[B, M, ...]` of a first stage; None: there is none.
        self_shown: `[N, N]` bool, True where a query may look at another; None: everywhere.
        noised: the denoising queries that come first among the N; None: there are none.
    """

    content: Tensor
    reference: Tensor
    pos: Tensor | None = None
    proposals: Answer | None = None
    self_shown: Tensor | None = None
    noised: DenoisingQueries | None = None
