"""The function that models call: checks, and the choice between compiled kernels and pure PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from greedyprune.ops.built import is_built
from greedyprune.ops.operator import OPERATOR
from greedyprune.ops.twin import ms_deform_attn_twin

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def ms_deform_attn(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum bilinear samples of every level's values, weighted (Zhu et al. 2021, "Deformable DETR", equation 3).

    Differentiable in value, locations and weights; each gradient has the dtype of what it is the gradient of. Compiled
    kernels run where `pip install ./ops` built them, else the pure PyTorch twin; both round half precision only at the
    end, sums are float32. On a CPU the same input gives the same bits with any number of threads; on a GPU value's
    gradient is added up in no fixed order.

    Args:
        value: `[batch, tokens, heads, channels]`, the levels' tokens one level after another, row by row; float32,
            float16, bfloat16 or float64.
        spatial_shapes: `(height, width)` of every level, each at least 1.
        locations: `[batch, queries, heads, levels, points, 2]`, x and y as fractions of the level's width and height;
            outside the image a sample is zero (`grid_sample`'s zeros padding with `align_corners=False`). Float32 or
            value's dtype.
        weights: `[batch, queries, heads, levels, points]`; float32 or value's dtype.

    Returns:
        `[batch, queries, heads * channels]` in value's dtype.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together; says which.
    """
    _check(value, spatial_shapes, locations, weights)
    if value.is_meta:  # only the shape is asked for, and the twin's many small steps take long to follow there
        return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
    if is_built(value.device.type) and value.numel() and locations.numel():
        shapes = [size for shape in spatial_shapes for size in shape]
        return OPERATOR(value, shapes, locations, weights)
    return ms_deform_attn_twin(value, spatial_shapes, locations, weights)


def _check(value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> None:
    if value.dim() != 4:
        raise ValueError(f"value has shape {_text(value)}; it must be [batch, tokens, heads, channels]")
    if locations.dim() != 6 or locations.shape[-1] != 2:
        raise ValueError(
            f"locations have shape {_text(locations)}; it must be [batch, queries, heads, levels, points, 2]"
        )
    batch, tokens, heads, _ = value.shape
    levels, points = locations.shape[3], locations.shape[4]
    if locations.shape[0] != batch or locations.shape[2] != heads:
        raise ValueError(f"locations of shape {_text(locations)} do not fit value of shape {_text(value)}")
    if weights.shape != locations.shape[:-1]:
        raise ValueError(f"weights of shape {_text(weights)} do not fit locations of shape {_text(locations)}")
    if len(spatial_shapes) != levels or levels == 0 or points == 0:
        raise ValueError(
            f"{len(spatial_shapes)} spatial shapes, and locations of {levels} levels and {points} points; "
            "both need the same levels, and at least one level and one point"
        )
    total = 0
    for level, (height, width) in enumerate(spatial_shapes):
        if height < 1 or width < 1:
            raise ValueError(f"level {level} is empty: its height and width are {height} and {width}")
        total += height * width
    if total != tokens:
        raise ValueError(f"value has {tokens} tokens, and levels of {list(spatial_shapes)} have {total}")
    if value.dtype not in _DTYPES:
        raise ValueError(f"value is {value.dtype}; it must be float32, float16, bfloat16 or float64")
    for name, tensor in (("locations", locations), ("weights", weights)):
        if tensor.dtype not in (torch.float32, value.dtype):
            raise ValueError(f"{name} are {tensor.dtype}; with a value of {value.dtype} they must be that or float32")
        if tensor.device != value.device:
            raise ValueError(f"{name} are on {tensor.device}, value on {value.device}")


def _text(tensor: Tensor) -> str:
    return str(list(tensor.shape))
