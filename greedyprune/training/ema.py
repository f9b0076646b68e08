"""An exponential moving average of a model's weights."""

import copy

import torch
from torch import Tensor, nn


def ema_decay(step: int, decay: float) -> float:
    """The decay of update number `step` (from 1): it rises to `decay`, so that the first weights are soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


class Ema:
    """Averaged weights: `average = d * average + (1 - d) * weight`, with d from `ema_decay`.

    Args:
        model: the model that is trained.
        decay: what d rises to, in 0..1.

    Attributes:
        model: a copy in eval mode that holds the average of parameters and float buffers (batch norm statistics).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the model's weights after optimizer step number `step` (from 1)."""
        averages, weights = zip(*self._floats, strict=True)
        torch._foreach_lerp_(averages, weights, 1 - ema_decay(step, self.decay))
        for average, value in self._others:
            average.copy_(value)


def _tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, shared ones once."""
    return [*model.parameters(), *model.buffers()]
