"""The learning rate of a fit goes up and down once, however few steps there are."""

from collections.abc import Iterator
from typing import SupportsFloat

import pytest
import torch

from greedyprune.pruning.fit import fit, one_cycle
from greedyprune.pruning.watcher import Unwatched


@pytest.mark.parametrize("steps", [40, 300, 1200])
def test_the_rate_is_that_of_one_cycle(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    twin = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=steps, pct_start=0.1, cycle_momentum=False, final_div_factor=1e9
    )
    for step in range(steps):
        assert one_cycle(step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        if step + 1 < steps:
            twin.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 10, 11, 20, 21, 500])
def test_any_number_of_steps_learns(steps: int) -> None:
    rates = [one_cycle(step, steps) for step in range(steps)]
    assert all(0 <= rate <= 1 for rate in rates)
    assert max(rates) > 0.9
    weight = torch.nn.Parameter(torch.ones(3), requires_grad=False)

    def losses() -> Iterator[torch.Tensor]:
        while True:
            yield weight.square().sum()

    fit([weight], losses(), steps, 0.5)
    assert weight.abs().max() < 1
    assert not weight.requires_grad


def test_every_step_is_told_with_its_loss() -> None:
    told = []

    class Told(Unwatched):
        def progress(self, done: int, total: int, loss: SupportsFloat | None = None) -> None:
            assert loss is not None
            told.append((done, total, float(loss)))

    weight = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    fit([weight], (weight.square().sum() for _ in range(100)), 20, 0.1, Told())
    assert [(done, total) for done, total, _ in told] == [(step, 20) for step in range(1, 21)]
    assert told[0][2] == 3.0 > told[-1][2]
