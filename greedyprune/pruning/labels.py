"""Losses of images, for scores that need one: of their labels, or with the detector's own answers in their place."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.boxes import xyxy_to_cxcywh
from greedyprune.errors import UserError
from greedyprune.families.base import Family

Labelled = Callable[[Answer, Sequence[dict[str, Any]]], Tensor]


SURE = 0.5  # the chance from which on a detection is taken for an object
MOST = 100  # detections of an image that may be


def loss_of(family: Family, model: nn.Module, wanted: str, labelled: bool = True) -> Labelled:
    """The detector's training loss of answers and their targets.

    Args:
        family: of the detector.
        model: the detector.
        wanted: the scorer or schedule that needs it, for the message.
        labelled: False: what the answers themselves find are the targets, and those that are given are not read.

    Raises:
        UserError: the family has no loss.
    """
    loss = family.loss(model)
    if loss is None:
        name = wanted if labelled else f"{wanted}_unlabelled"
        raise UserError(f"{name} needs a loss, and a {family.name} has none here; choose basis, select or magnitude")
    device = next(model.parameters()).device

    def of_targets(answer: Answer, targets: Sequence[dict[str, Any]]) -> Tensor:
        known = targets if labelled else found(family, model, answer)
        return loss(answer, [{key: target[key].to(device) for key in ("labels", "boxes")} for target in known])

    return of_targets


@torch.no_grad()
def found(family: Family, model: nn.Module, answer: Answer) -> list[dict[str, Any]]:
    """What a detector finds in each image, as targets: all detections that it is sure of, and at least the best one.

    Boxes that reach outside the image are cut off there; one of which nothing is left is none.
    """
    last = answer.last()
    sizes = torch.ones(last.images, 2, device=last.logits.device)
    targets = []
    for each in family.detections(model, last, sizes, MOST):
        boxes = each["boxes"].clamp(0, 1)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        sure = each["scores"] >= SURE
        sure[:1] = True
        kept = inside & sure
        targets.append({"labels": each["labels"][kept], "boxes": xyxy_to_cxcywh(boxes[kept])})
    return targets
