"""Multi-scale deformable attention in plain PyTorch: what the compiled kernels are held against."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn_twin(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum bilinear samples of every level's values, weighted (Zhu et al. 2021, "Deformable DETR", equation 3).

    Args:
        value: `[batch, tokens, heads, channels]`, the levels' tokens one level after another, row by row.
        spatial_shapes: `(height, width)` of every level.
        locations: `[batch, queries, heads, levels, points, 2]`, x and y as fractions of the level's width and
            height; outside the image a sample is zero (`grid_sample`'s zeros padding with `align_corners=False`).
        weights: `[batch, queries, heads, levels, points]`.

    Returns:
        `[batch, queries, heads * channels]`.
    """
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    grids = 2 * locations - 1
    samples = value.new_zeros(())
    for level, part in enumerate(value.split([height * width for height, width in spatial_shapes], 1)):
        height, width = spatial_shapes[level]
        plane = part.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # [batch * heads, queries, points, 2]
        sampled = F.grid_sample(plane, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        samples = samples + (sampled * weight).sum(-1)  # [batch * heads, channels, queries]
    return samples.view(batch, heads * channels, queries).transpose(1, 2)
