"""How the weights of a slim model learn: Adam, one batch a step."""

from collections.abc import Iterator, Sequence
from itertools import islice
from math import cos, pi

import torch
from torch import Tensor, nn

from greedyprune.pruning.watcher import UNWATCHED, Watcher

BETAS = (0.9, 0.99)
WARM_UP = 0.1  # share of the steps in which the learning rate rises
FIRST = 0.04  # of the highest learning rate is the first one
FULL = 400  # steps; fewer leave no time to make good what large ones break


def fit(
    parameters: Sequence[nn.Parameter],
    losses: Iterator[Tensor],
    steps: int,
    rate: float,
    watcher: Watcher = UNWATCHED,
) -> None:
    """Train parameters in place.

    Args:
        parameters: what learns; they take gradients only while this runs.
        losses: makes each step's loss when it is asked for it, with the weights as they are then.
        steps: how many.
        rate: the highest learning rate; in proportion less where there are fewer than `FULL` steps.
        watcher: is told of every step, with its loss.
    """
    if not steps or not parameters:
        return
    rate *= min(1.0, steps / FULL)
    optimizer = torch.optim.Adam(parameters, lr=rate, betas=BETAS, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, steps))
    for parameter in parameters:
        parameter.requires_grad_(True)
    with torch.enable_grad():
        for done, loss in enumerate(islice(losses, steps), start=1):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            watcher.progress(done, steps, loss.detach())
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None


def one_cycle(step: int, steps: int) -> float:
    """The learning rate of a step (from 0) over the highest one: up along a cosine, and down to 0 along another."""
    top = max(0.0, WARM_UP * steps - 1)
    if step < top:
        return 1 - (1 - FIRST) * (1 + cos(pi * step / top)) / 2
    return (1 + cos(pi * (step - top) / max(1.0, steps - 1 - top))) / 2
