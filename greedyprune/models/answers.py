"""How far one detector's answers are from another's, query by query."""

from torch import Tensor
from torch.nn import functional as F

from greedyprune.models.detector import Outputs

BOX_WEIGHT = 5.0  # of a box coordinate against a logit: DETR's weight of the L1 loss


def answer_errors(outputs: Outputs, target: Outputs) -> list[Tensor]:
    """Errors of a detector that learns another one's answers to the same queries (Hinton et al. 2015).

    Of a query it is the binary cross entropy of its logits with the other's chances, summed over the classes, and
    `BOX_WEIGHT` times the L1 distance of the boxes, weighed by the chance of the other's best class.

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
        boxes = (own["pred_boxes"] - aim["pred_boxes"]).abs().sum(-1)
        errors.append(logits + BOX_WEIGHT * chance.amax(-1) * boxes)
    return errors
