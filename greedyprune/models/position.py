"""Sine embeddings of positions in the image and of boxes."""

import math

import torch
from torch import Tensor, nn


def _sine(position: Tensor, dims: int, temperature: float) -> Tensor:
    """Interleaved sines and cosines: `[...]` in radians -> `[..., dims]` ("Attention is all you need", 3.5)."""
    exponent = torch.arange(dims, dtype=torch.float32, device=position.device).div(2, rounding_mode="floor") * 2 / dims
    angle = position[..., None] / temperature**exponent
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2)  # [..., dims]


def image_positions(
    padding: Tensor, dims: int, temperature_h: float, temperature_w: float, offset: float = 0.0
) -> Tensor:
    """Position embedding of every cell of a feature map (DAB-DETR, section 4.4: its temperatures are 20).

    Args:
        padding: `[B, h, w]` bool, True at padding.
        dims: channels of the result; an even half goes to y, the other to x.
        temperature_h: temperature of the y half.
        temperature_w: temperature of the x half.
        offset: cells added to every cell's number, which counts from 1; Deformable DETR's -0.5 means its centre.

    Returns:
        `[B, h * w, dims]` float32, rows of the map one after another.
    """
    valid = (~padding).float()
    y, x = valid.cumsum(1), valid.cumsum(2)
    y = (y + offset) / (y[:, -1:, :] + 1e-6) * 2 * math.pi
    x = (x + offset) / (x[:, :, -1:] + 1e-6) * 2 * math.pi
    position = torch.cat((_sine(y, dims // 2, temperature_h), _sine(x, dims // 2, temperature_w)), dim=-1)
    return position.flatten(1, 2)  # [B, h * w, dims]


def box_positions(boxes: Tensor, dims: int) -> Tensor:
    """Sine embedding of boxes as `(y, x, w, h)`, `dims` channels each (DAB-DETR, section 4.2).

    Args:
        boxes: `[..., 4]` cxcywh in 0..1.
        dims: channels for each of the four numbers.

    Returns:
        `[..., 4 * dims]` float32.
    """
    embedded = _sine(boxes.float()[..., [1, 0, 2, 3]] * 2 * math.pi, dims, 10000.0)  # [..., 4, dims]
    return embedded.flatten(-2)


class ImagePositions(nn.Module):
    """`image_positions` as a module; its arguments are those of the function."""

    def __init__(self, dims: int, temperature_h: float, temperature_w: float, offset: float = 0.0) -> None:
        super().__init__()
        self.settings = dims, temperature_h, temperature_w, offset

    def forward(self, padding: Tensor) -> Tensor:
        """padding `[B, h, w]` bool, True at padding -> `[B, h * w, dims]` float32."""
        return image_positions(padding, *self.settings)


class BoxPositions(nn.Module):
    """`box_positions` as a module, of `dims` channels for each of a box's four numbers."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, boxes: Tensor) -> Tensor:
        """boxes `[..., 4]` cxcywh in 0..1 -> `[..., 4 * dims]` float32."""
        return box_positions(boxes, self.dims)
