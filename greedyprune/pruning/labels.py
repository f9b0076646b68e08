"""Losses of labelled images, for scores that need labels."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.errors import UserError
from greedyprune.families.base import Family

Labelled = Callable[[Answer, Sequence[dict[str, Any]]], Tensor]


def loss_of(family: Family, model: nn.Module, wanted: str) -> Labelled:
    """The detector's training loss of answers and their targets.

    Args:
        family: of the detector.
        model: the detector.
        wanted: the scorer or schedule that needs it, for the message.

    Raises:
        UserError: the family has no loss.
    """
    loss = family.loss(model)
    if loss is None:
        raise UserError(f"{wanted} needs a loss, and a {family.name} has none here; choose basis, select or magnitude")
    device = next(model.parameters()).device

    def of_targets(answer: Answer, targets: Sequence[dict[str, Any]]) -> Tensor:
        return loss(answer, [{key: target[key].to(device) for key in ("labels", "boxes")} for target in targets])

    return of_targets
