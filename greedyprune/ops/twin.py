"""Multi-scale deformable attention in plain PyTorch: what runs where nothing is built, and what kernels must equal."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn_twin(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`ms_deform_attn` by one `grid_sample` per level; half precision is computed in float32.

    Arguments and result are those of `greedyprune.ops.ms_deform_attn`.
    """
    batch, _, heads, channels = value.shape
    kind = torch.promote_types(value.dtype, torch.float32)
    total: Tensor | float = 0.0
    for plane, grid, weight in _levels(value, spatial_shapes, locations, weights, kind):
        # [batch * heads, channels, queries, points] times [batch * heads, 1, queries, points]
        total = total + (_sample(plane, grid) * weight.unsqueeze(1)).sum(-1)
    assert isinstance(total, Tensor)  # the face refuses inputs without levels
    return total.view(batch, heads * channels, locations.shape[1]).transpose(1, 2).to(value.dtype)


def ms_deform_attn_twin_backward(
    grad: Tensor, value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of value, locations and weights, without autograd.

    Args:
        grad: the gradient of the output, `[batch, queries, heads * channels]`.
        value: as `ms_deform_attn_twin` takes it, and so the others.
        spatial_shapes: `(height, width)` of every level.
        locations: sampling locations.
        weights: sampling weights.
    """
    batch, _, heads, channels = value.shape
    kind = torch.promote_types(value.dtype, torch.float32)
    given = grad.to(kind).view(batch, grad.shape[1], heads, channels).permute(0, 2, 3, 1).flatten(0, 1)
    given = given.unsqueeze(-1)  # [batch * heads, channels, queries, 1]
    values, places, scales = [], [], []
    for plane, grid, weight in _levels(value, spatial_shapes, locations, weights, kind):
        grad_plane, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
            given * weight.unsqueeze(1), plane, grid, 0, 0, False, [True, True]
        )
        values.append(grad_plane.view(batch, heads, channels, plane.shape[2] * plane.shape[3]).permute(0, 3, 1, 2))
        places.append(2 * grad_grid.unflatten(0, (batch, heads)))
        scales.append((given * _sample(plane, grid)).sum(1).unflatten(0, (batch, heads)))
    return (
        torch.cat(values, 1).to(value.dtype),
        torch.stack(places, 3).transpose(1, 2).to(locations.dtype).contiguous(),  # from [batch, heads, queries, ...]
        torch.stack(scales, 3).transpose(1, 2).to(weights.dtype).contiguous(),
    )


def _levels(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    kind: torch.dtype,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each level's values `[batch * heads, channels, height, width]`, its sampling grid
    `[batch * heads, queries, points, 2]` in -1..1, and its weights `[batch * heads, queries, points]`."""
    batch, _, heads, channels = value.shape
    grids = (2 * locations.to(kind) - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    by_level = weights.to(kind).permute(3, 0, 2, 1, 4).flatten(1, 2)
    parts = value.to(kind).split([height * width for height, width in spatial_shapes], 1)
    for level, (height, width) in enumerate(spatial_shapes):
        plane = parts[level].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        yield plane, grids[level], by_level[level]


def _sample(plane: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(plane, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
