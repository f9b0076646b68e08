"""Multi-scale deformable attention: a query looks at a few points around its reference in every feature map."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from greedyprune.models.features import Levels
from greedyprune.models.layers import Heads
from greedyprune.ops import ms_deform_attn


def sample_levels(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """`greedyprune.ops.ms_deform_attn`, whose calls a `TorchFunctionMode` hears whichever kernel runs.

    Args:
        value: `[B, M, heads, channels]`.
        shapes: height and width of every level.
        locations: `[B, N, heads, L, points, 2]` (x, y) in 0..1 of every level.
        weights: `[B, N, heads, L, points]`.

    Returns:
        `[B, N, heads * channels]`.
    """
    given = (value, locations, weights)
    if has_torch_function(given):
        return handle_torch_function(sample_levels, given, value, shapes, locations, weights)
    return ms_deform_attn(value, shapes, locations, weights)


class DeformableAttention(nn.Module):
    """Attention at sampled points (Deformable DETR, equation 3).

    Where a head looks, and how much each point weighs, are linear maps of the query, which leave with the whole head
    only; what it reads there has a width.

    Args:
        dim: channels of queries, memory and result.
        width: value channels over all heads (`dim` when dense).
        heads: how they lie in heads.
        levels: feature maps.
        points: points that a head samples in each.
    """

    def __init__(self, dim: int, width: int, heads: Heads, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        places = heads.of(width) * levels * points
        self.sampling_offsets = nn.Linear(dim, places * 2)
        self.attention_weights = nn.Linear(dim, places)
        self.value_proj = nn.Linear(dim, width)
        self.output_proj = nn.Linear(width, dim)

    @torch.no_grad()
    def look_around(self) -> None:
        """Start as in appendix A.4: every head looks in its own direction, its points 1, 2, 3 ... cells away."""
        heads = self.heads.of(self.value_proj.out_features)
        angle = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)  # [heads, 2]
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        distance = torch.arange(1, self.points + 1)
        offsets = direction[:, None, None] * distance[:, None]  # [heads, 1, points, 2]
        self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        for tensor in (self.sampling_offsets.weight, *self.attention_weights.parameters()):
            tensor.zero_()
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            projection.bias.zero_()

    def forward(self, query: Tensor, memory: Tensor, reference: Tensor, levels: Levels) -> Tensor:
        """Sample the memory around references.

        Args:
            query: `[B, N, dim]`, with its position.
            memory: `[B, M, dim]`.
            reference: `[B, N, L, 2]` points, from which offsets are counted in cells, or `[B, N, L, 4]` boxes
                (cxcywh), in which they are counted so that `points` reaches the side; both in 0..1 of every level.
            levels: where the memory's tokens lie.

        Returns:
            `[B, N, dim]`.
        """
        value = self.value_proj(memory)
        if levels.shown is not None:
            value = value.masked_fill(~levels.shown[..., None], 0.0)
        value = value.unflatten(-1, self.heads)  # [B, M, heads, width / heads]
        places = (self.levels, self.points)
        offsets = self.sampling_offsets(query).float().unflatten(-1, (-1, *places, 2))
        weights = self.attention_weights(query).float().unflatten(-1, (-1, self.levels * self.points)).softmax(-1)
        weights = weights.unflatten(-1, places)  # [B, N, heads, L, points]
        start = reference[:, :, None, :, None]  # [B, N, 1, L, 1, 2 or 4]
        if reference.shape[-1] == 2:
            cells = offsets.new_tensor([(width, height) for height, width in levels.shapes])  # [L, 2]
            locations = start + offsets / cells[:, None]
        else:
            locations = start[..., :2] + offsets / self.points * start[..., 2:] * 0.5
        return self.output_proj(sample_levels(value, levels.shapes, locations, weights))


class DeformableSelfAttention(DeformableAttention):
    """Every token looks around itself; takes what an encoder layer gives."""

    def forward(self, x: Tensor, pos: Tensor, levels: Levels) -> Tensor:  # type: ignore[override]
        """x, pos `[B, M, dim]` -> `[B, M, dim]`."""
        return super().forward(x + pos, x, levels.scale(levels.centres), levels)
