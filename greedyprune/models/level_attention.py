"""Cross-attention that looks at every level apart, as in DN-DETR's published encoder-only variant."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from greedyprune.models.features import Features, Levels
from greedyprune.models.layers import DecoderLayer, DotProductAttention, LayerOptions


class LevelAttention(nn.Module):
    """Attention to every level apart, and the mean of the levels under weights of every query."""

    def __init__(self) -> None:
        super().__init__()
        self.core = DotProductAttention()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, weights: Tensor, levels: Levels) -> Tensor:
        """Attend.

        Args:
            q: `[B, heads, N, e]`.
            k: `[B, heads, M, e]`.
            v: `[B, heads, M, d]`.
            weights: `[B, N, L]`, for every query of sum 1.
            levels: where the memory's tokens lie.

        Returns:
            `[B, N, heads * d]`.
        """
        shown: list[Tensor | None] = [None] * len(levels.sizes)
        if levels.shown is not None:
            shown = list(levels.shown[:, None, None].split(levels.sizes, dim=-1))  # [B, 1, 1, m] each
        parts = zip(k.split(levels.sizes, dim=2), v.split(levels.sizes, dim=2), shown, weights.unbind(-1), strict=True)
        seen = [self.core(q, *given) * weight[:, None, :, None] for *given, weight in parts]  # [B, heads, N, d] each
        return torch.stack(seen).sum(0).transpose(1, 2).flatten(2)


class LevelDecoderLayer(DecoderLayer):
    """A DAB-DETR decoder layer with `LevelAttention`; the query of the self-attention says how much a level weighs.

    Args:
        options: see `DecoderLayer`.
        widths: see `DecoderLayer`. A channel that the self-attention lacks is no input of the levels' weights either.
        first: see `DecoderLayer`.
        levels: number of levels.
    """

    def __init__(self, options: LayerOptions, widths: Sequence[int], first: bool, levels: int) -> None:
        super().__init__(options, widths, first)
        self_width, cross_width, _ = widths
        self.cross_attn = LevelAttention()
        self.ca_out_v_proj = nn.Linear(cross_width, options.dim)
        self.lvl_attn = nn.Linear(self_width, levels)

    def cross(self, q: Tensor, k: Tensor, v: Tensor, features: Features, asked: Tensor) -> Tensor:
        weights = self.lvl_attn(asked).softmax(-1)  # [B, N, L]
        # The published code projects what is seen of every level: the same, since the weights' sum is 1.
        return self.ca_out_v_proj(self.cross_attn(q, k, v, weights, features.pyramid))
