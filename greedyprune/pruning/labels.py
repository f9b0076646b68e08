"""Losses of labelled images, for scores that need labels; and gradients with or without."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.errors import UserError
from greedyprune.families.base import Family
from greedyprune.pruning.sensitivity import answer_gradients

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


Gradients = Callable[[Answer, Sequence[dict[str, Any]], Sequence[Tensor]], list[list[Tensor]]]


def gradients_of(family: Family, model: nn.Module, wanted: str, labelled: bool, seed: int = 0) -> Gradients:
    """Gradients at several places of what a batch's answer is held against.

    With labels, of the training loss. Without, the dense answer is the truth: at it every loss has its least value and
    no gradient, so those of random projections are taken whose mean square is the loss's curvature there, as if the
    truth were drawn from the answer's own chances; see `answer_gradients`. These need no loss.

    Args:
        family: of the detector.
        model: the detector.
        wanted: the scorer that needs them, for the message.
        labelled: which of the two.
        seed: of the projections.

    Returns:
        From the answer with its graph, the targets and the places to one gradient for each place, zeros where there is
        none, or several such lists.

    Raises:
        UserError: with labels, the family has no loss.
    """
    if not labelled:
        generator = torch.Generator().manual_seed(seed)
        return lambda answer, targets, places: answer_gradients(answer, places, generator)
    loss = loss_of(family, model, wanted)

    def of_loss(answer: Answer, targets: Sequence[dict[str, Any]], places: Sequence[Tensor]) -> list[list[Tensor]]:
        found = torch.autograd.grad(loss(answer, targets), places, allow_unused=True)
        return [[torch.zeros_like(p) if g is None else g for p, g in zip(places, found, strict=True)]]

    return of_loss
