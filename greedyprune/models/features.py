"""What the parts of a detector hand to each other: image tokens, their levels, and queries."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from greedyprune.models.denoising import DenoisingQueries


class Levels(NamedTuple):
    """Feature maps of several sizes, their tokens one level after another and row by row.

    Attributes:
        shapes: height and width of every level.
        valid: `[B, L, 2]` share of each level's width and height that is image, not padding.
        centres: `[B, M, 2]` centre (x, y) of every token's cell, in 0..1 of its own unpadded image.
        mask: `[B, M]` bool, True where there is image; None: everywhere.
    """

    shapes: tuple[tuple[int, int], ...]
    valid: Tensor
    centres: Tensor
    mask: Tensor | None

    def scale(self, reference: Tensor) -> Tensor:
        """Points or boxes `[B, N, 2 or 4]` of the unpadded image in every padded level: `[B, N, L, 2 or 4]`."""
        valid = self.valid if reference.shape[-1] == 2 else torch.cat((self.valid, self.valid), dim=-1)
        return reference[:, :, None] * valid[:, None]


class Features(NamedTuple):
    """What the Transformer gets of a batch of images.

    Attributes:
        tokens: `[B, M, dim]` projected backbone features.
        pos: `[B, M, dim]` their position embedding.
        mask: `[B, 1, 1, M]` bool, True where there is image; None: everywhere.
        levels: where the tokens lie, for deformable attention; None: the model has none.
    """

    tokens: Tensor
    pos: Tensor
    mask: Tensor | None
    levels: Levels | None = None

    @property
    def pyramid(self) -> Levels:
        """The levels of a model that has them."""
        if self.levels is None:
            raise ValueError("deformable attention needs features with levels")
        return self.levels


class Queries(NamedTuple):
    """What the decoder starts from.

    Attributes:
        content: `[B, N, dim]`.
        reference: `[B, N, 4]` boxes (cxcywh in 0..1), or `[B, N, 2]` points.
        pos: `[B, N, dim]` position embedding of every layer; None: each layer makes its own from the boxes.
        proposals: `pred_logits` [B, M, C] and `pred_boxes` [B, M, 4] of the first stage; None: there is none.
        self_mask: `[N, N]` bool, True where a query may look at another; None: everywhere.
        noised: the denoising queries that come first among the N; None: there are none.
    """

    content: Tensor
    reference: Tensor
    pos: Tensor | None = None
    proposals: dict[str, Any] | None = None
    self_mask: Tensor | None = None
    noised: "DenoisingQueries | None" = None
