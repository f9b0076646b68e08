"""How far one detector's answers are from another's, query by query."""

from torch import Tensor
from torch.nn import functional as F

from greedyprune.models.boxes import cxcywh_to_xyxy, generalized_iou
from greedyprune.models.detector import Outputs

# Against a logit, as in DETR's loss: of a box coordinate, and of the boxes' overlap.
BOX_WEIGHT, GIOU_WEIGHT = 5.0, 2.0


def answer_errors(outputs: Outputs, target: Outputs) -> list[Tensor]:
    """Errors of a detector that learns another one's answers to the same queries (Hinton et al. 2015).

    Of a query it is the binary cross entropy of its logits with the other's chances, summed over the classes; and of
    the boxes `BOX_WEIGHT` times their L1 distance and `GIOU_WEIGHT` times 1 - GIoU, which tells how far a small box is
    off, weighed by the chance of the other's best class.

    Args:
        outputs: what `Detector.forward` returns.
        target: the same of the other detector, with as many decoder layers, queries and classes.

    Returns:
        `[B, Q]` for every decoder layer, the last one first.
    """
    errors = []
    layers = zip((outputs, *outputs["aux_outputs"]), (target, *target["aux_outputs"]), strict=True)
    for own, aim in layers:
        chance = aim["pred_logits"].float().sigmoid()
        logits = F.binary_cross_entropy_with_logits(own["pred_logits"].float(), chance, reduction="none").sum(-1)
        found, wanted = own["pred_boxes"].float(), aim["pred_boxes"].float()
        apart = 1 - generalized_iou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(wanted))
        boxes = BOX_WEIGHT * (found - wanted).abs().sum(-1) + GIOU_WEIGHT * apart
        errors.append(logits + chance.amax(-1) * boxes)
    return errors
