"""The learning rate of a fit goes up and down once, however few steps there are."""

from collections.abc import Iterator

import pytest
import torch

from greedyprune.pruning.fit import fit, one_cycle


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
