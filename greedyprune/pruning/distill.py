"""Mend a slim model: its layers learn to answer as the dense model does, on calibration images without labels."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F

from greedyprune.models.detector import Detector, Outputs
from greedyprune.pruning.prefix import Place, Prefix, advance, finish
from greedyprune.pruning.sensitivity import BOX_WEIGHT

Batches = Callable[[], Iterable[Prefix]]

LEARNING_RATE = 1e-3
WARM_UP = 0.1  # share of the steps in which the learning rate rises; then it falls along a cosine
HIDDEN_WEIGHT = 0.1  # of the decoder's states and the memory against the answers


def distill(dense: Detector, slim: Detector, batches: Batches, steps: int, own: Sequence[Prefix] = ()) -> None:
    """Train the encoder's and decoder's layers of a slim model, in place.

    The loss compares, for every decoder layer, logits (binary cross entropy with the dense model's chances), boxes (L1,
    as much as the dense query is confident) and, with a small weight, hidden states; Adam, one batch a step. The dense
    answers are kept: memory is that of the answers and of one batch.

    Args:
        dense: the dense model, in eval mode; it is not changed.
        slim: one with the same layers, in eval mode: a pure function of it and of the batches comes back.
        batches: goes through calibration images before the first encoder layer, always in the same order; not made in
            inference mode.
        steps: how many.
        own: the same images before the slim model's encoder, where its backbone is another; empty: it is not.
    """
    layers = [*slim.transformer.encoder.layers.parameters(), *slim.transformer.decoder.layers.parameters()]
    trained = {parameter: parameter.requires_grad for parameter in slim.parameters()}
    for parameter in slim.parameters():
        parameter.requires_grad_(False)
    for parameter in layers:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(layers, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=WARM_UP)
    known: dict[int, tuple[Outputs, list[Tensor]]] = {}
    for number, prefix in islice(_again(batches), steps):
        if number not in known:
            with torch.no_grad():
                known[number] = _run(dense, prefix)
        with torch.enable_grad():
            loss = _loss(*_run(slim, own[number] if own else prefix), *known[number], prefix)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        schedule.step()
    for parameter, trains in trained.items():
        parameter.requires_grad_(trains)
        parameter.grad = None


def _again(batches: Batches) -> Iterator[tuple[int, Prefix]]:
    """The batches over and over, each with its number."""
    while True:
        yield from enumerate(batches())


def _run(model: Detector, prefix: Prefix) -> tuple[Outputs, list[Tensor]]:
    """The answer, and the memory with the decoder's states."""
    memory = advance(model, prefix, Place(False, len(model.transformer.encoder.layers)))
    end = advance(model, memory, Place(True, len(model.transformer.decoder.layers)))
    return finish(model, end), [memory.tokens, *end.hidden]


def _loss(outputs: Outputs, states: list[Tensor], target: Outputs, aims: list[Tensor], prefix: Prefix) -> Tensor:
    shown = slice(None) if prefix.mask is None else prefix.mask.flatten(1)
    loss = HIDDEN_WEIGHT * F.mse_loss(states[0][shown], aims[0][shown])
    for state, aim in zip(states[1:], aims[1:], strict=True):
        loss = loss + HIDDEN_WEIGHT * F.mse_loss(state, aim)
    stages = zip((outputs, *outputs["aux_outputs"]), (target, *target["aux_outputs"]), strict=True)
    for own, aim in stages:
        chance = aim["pred_logits"].sigmoid()
        logits = F.binary_cross_entropy_with_logits(own["pred_logits"], chance, reduction="none").sum(-1)
        boxes = (own["pred_boxes"] - aim["pred_boxes"]).abs().sum(-1)
        loss = loss + (logits + BOX_WEIGHT * chance.amax(-1) * boxes).mean()
    return loss
