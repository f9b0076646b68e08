"""Boxes as cxcywh and xyxy, before and after the sigmoid, and their overlap."""

import torch
from torch import Tensor

# How near to 0 and 1 coordinates are told apart before the sigmoid, in DAB-DETR.
EPS = 1e-3


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """`[..., 4]` centre and size -> `[..., 4]` corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalized IoU (Rezatofighi et al. 2019, algorithm 1) of boxes that broadcast against each other.

    Args:
        a: `[..., 4]` xyxy.
        b: `[..., 4]` xyxy.

    Returns:
        `[...]`, in -1..1.
    """
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    outer = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0)
    overlap, hull = inner.prod(-1), outer.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - overlap
    return overlap / union - (hull - union) / hull


def inverse_sigmoid(x: Tensor, eps: float = EPS) -> Tensor:
    """log(x / (1 - x)) with both parts kept above `eps`: 1e-3 in DAB-DETR, 1e-5 in Deformable DETR."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
