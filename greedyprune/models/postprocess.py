"""Detections from the answer of a detector."""

import torch
from torch import Tensor

from greedyprune.answer import Answer
from greedyprune.boxes import cxcywh_to_xyxy


@torch.no_grad()
def postprocess(answer: Answer, sizes: Tensor, top_k: int = 100) -> list[dict[str, Tensor]]:
    """The `top_k` best (query, class) pairs of each image; a query may answer with several classes.

    Args:
        answer: of the detector; only that of the last layer is read.
        sizes: `[B, 2]` original height and width in pixels.
        top_k: detections for each image; at most Q * C.

    Returns:
        B dicts with `scores` [k] from high to low, `labels` int64 [k], `boxes` [k, 4] xyxy in pixels.
    """
    chances, boxes = answer.link.chances(answer.logits.float()), answer.boxes.float()
    classes = chances.shape[-1]
    scores = chances.flatten(1)  # [B, Q * C]
    scores, index = scores.topk(min(top_k, scores.shape[1]), dim=1)
    labels = index % classes
    corners = cxcywh_to_xyxy(boxes).gather(1, (index // classes)[..., None].expand(-1, -1, 4))  # [B, k, 4]
    scale = sizes.to(corners).flip(1).repeat(1, 2)  # (w, h, w, h)
    corners = corners * scale[:, None]
    return [{"scores": s, "labels": c, "boxes": b} for s, c, b in zip(scores, labels, corners, strict=True)]
