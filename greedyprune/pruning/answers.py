"""Distance between the answers of two detectors, query by query."""

from torch import Tensor

from greedyprune.answer import Answer
from greedyprune.boxes import cxcywh_to_xyxy, generalized_iou

# Weights against the classes' cross entropy, as in DETR's loss: of a box coordinate, and of the boxes' overlap.
BOX_WEIGHT, GIOU_WEIGHT = 5.0, 2.0


def answer_errors(answer: Answer, target: Answer) -> list[Tensor]:
    """Errors of a detector that learns another one's answers to the same queries (Hinton et al. 2015).

    The error of a query is the divergence of its logits' chances from the target's (see `Link`), and of its box
    `BOX_WEIGHT` times the L1 distance and `GIOU_WEIGHT` times 1 - GIoU, which tells how far a small box is off, weighed
    by the chance of the target's best class.

    Args:
        answer: of the detector that learns.
        target: of the other detector; as many layers, queries and classes, each the counterpart of the answer's.

    Returns:
        `[B, Q]` for every layer, the last one first.

    Raises:
        ValueError: the numbers of layers differ.
    """
    return [_errors(own, aim) for own, aim in zip(answer.layers(), target.layers(), strict=True)]


def _errors(own: Answer, aim: Answer) -> Tensor:
    """Errors `[B, Q]` of a single layer."""
    wanted, found, boxes = aim.logits.float(), own.boxes.float(), aim.boxes.float()
    apart = 1 - generalized_iou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(boxes))
    distance = BOX_WEIGHT * (found - boxes).abs().sum(-1) + GIOU_WEIGHT * apart
    least = aim.link.cross_entropy(wanted, wanted)
    return aim.link.cross_entropy(own.logits.float(), wanted) - least + aim.link.confidence(wanted) * distance
