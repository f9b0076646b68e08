"""How the weights of a slim model learn: Adam, one batch a step."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.99)
WARM_UP = 0.1  # share of the steps in which the learning rate rises; then it falls along a cosine
FULL = 400  # steps; fewer leave no time to make good what large ones break


def fit(parameters: Sequence[nn.Parameter], losses: Iterator[Tensor], steps: int, rate: float) -> None:
    """Train parameters in place.

    Args:
        parameters: what learns; they take gradients only while this runs.
        losses: makes each step's loss when it is asked for it, with the weights as they are then.
        steps: how many.
        rate: the highest learning rate; in proportion less where there are fewer than `FULL` steps.
    """
    if not steps or not parameters:
        return
    rate *= min(1.0, steps / FULL)
    optimizer = torch.optim.Adam(parameters, lr=rate, betas=BETAS, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=WARM_UP, cycle_momentum=False
    )
    for parameter in parameters:
        parameter.requires_grad_(True)
    with torch.enable_grad():
        for loss in islice(losses, steps):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None
