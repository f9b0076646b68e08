"""Cross-attention that looks at every level apart, as in DN-DETR's published encoder-only variant."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from greedyprune.models.features import Features, Levels
from greedyprune.models.layers import Asked, DecoderLayer, DotProductAttention, LayerOptions


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
    """A DAB-DETR decoder layer with `LevelAttention`.

    How much a level weighs comes from the queries of a dense self-attention, as published. A slim one lacks channels of
    these, so there it comes from content and position of the query themselves: of what `lvl_attn` and the projections
    make of them together, which is one linear map (`direct_levels`).

    Args:
        options: see `DecoderLayer`.
        widths: see `DecoderLayer`.
        first: see `DecoderLayer`.
        levels: number of levels.
    """

    def __init__(self, options: LayerOptions, widths: Sequence[int], first: bool, levels: int) -> None:
        super().__init__(options, widths, first)
        self_width, cross_width, _ = widths
        self.cross_attn = LevelAttention()
        self.ca_out_v_proj = nn.Linear(cross_width, options.dim)
        self.lvl_attn = nn.Linear(options.dim if self_width == options.dim else 2 * options.dim, levels)

    def cross(self, q: Tensor, k: Tensor, v: Tensor, features: Features, asked: Asked) -> Tensor:
        levels = self.lvl_attn  # a constant in a deployed detector's first layer, which hears no source
        direct = isinstance(levels, nn.Linear) and levels.weight.shape[1] > asked.content.shape[-1]
        source = torch.cat((asked.content, asked.pos), dim=-1) if direct else asked.q
        weights = levels(source).softmax(-1)  # [B, N, L]
        # The published code projects what is seen of every level: the same, since the weights' sum is 1.
        return self.ca_out_v_proj(self.cross_attn(q, k, v, weights, features.pyramid))

    @torch.no_grad()
    def direct_levels(self) -> dict[str, Tensor]:
        """`lvl_attn` of a layer with the same level weights, whatever the width of its self-attention.

        Returns:
            `lvl_attn.weight` `[L, 2 * dim]` and `lvl_attn.bias` `[L]`; this layer's own where they are of this form.
        """
        weight, bias = self.lvl_attn.weight.detach(), self.lvl_attn.bias.detach()
        content, pos = self.sa_qcontent_proj, self.sa_qpos_proj
        if weight.shape[1] == content.weight.shape[0]:
            bias = bias + weight @ (content.bias + pos.bias)
            weight = torch.cat((weight @ content.weight, weight @ pos.weight), dim=1)
        return {"lvl_attn.weight": weight, "lvl_attn.bias": bias}
