"""Detections from a detector's outputs."""

from typing import Any

import torch
from torch import Tensor

from greedyprune.models.boxes import cxcywh_to_xyxy


@torch.no_grad()
def postprocess(outputs: dict[str, Any], sizes: Tensor, top_k: int = 100) -> list[dict[str, Tensor]]:
    """The `top_k` best (query, class) pairs of each image; a query may answer with several classes.

    Args:
        outputs: `pred_logits` [B, Q, C] and `pred_boxes` [B, Q, 4] (cxcywh in 0..1).
        sizes: `[B, 2]` original height and width in pixels.
        top_k: detections for each image; at most Q * C.

    Returns:
        B dicts with `scores` [k] from high to low, `labels` int64 [k], `boxes` [k, 4] xyxy in pixels.
    """
    logits, boxes = outputs["pred_logits"].float(), outputs["pred_boxes"].float()
    classes = logits.shape[-1]
    scores = logits.sigmoid().flatten(1)  # [B, Q * C]
    scores, index = scores.topk(min(top_k, scores.shape[1]), dim=1)
    labels = index % classes
    corners = cxcywh_to_xyxy(boxes).gather(1, (index // classes)[..., None].expand(-1, -1, 4))  # [B, k, 4]
    scale = sizes.to(corners).flip(1).repeat(1, 2)  # (w, h, w, h)
    corners = corners * scale[:, None]
    return [{"scores": s, "labels": c, "boxes": b} for s, c, b in zip(scores, labels, corners, strict=True)]
