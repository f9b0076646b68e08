"""Refitted readers are regressions on the rows themselves."""

import pytest
import torch

from greedyprune.pruning.moments import Moments
from greedyprune.pruning.refit import RIDGE, refit

from ..helpers.rows import correlated


@pytest.mark.parametrize("kept", [torch.tensor([0, 2, 5]), correlated(3, 8, 12)[0]], ids=["channels", "basis"])
def test_the_refit_is_the_ridge_regression_on_the_rows_themselves(kept: torch.Tensor) -> None:
    x = correlated(200, 8, 10)[0] + 3
    weights = torch.rand(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight, bias = correlated(5, 8, 11)[0], torch.arange(5, dtype=torch.float64)
    moments = Moments(8)
    moments.add(x, weights)
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    solved, shift = refit(moments.covariance, moments.mean, kept, weight, bias, start)
    inputs, share = x[:, kept] if kept.dim() == 1 else x @ kept.T, (weights / weights.sum()).sqrt()[:, None]
    outputs = x @ weight.T + bias
    mean, target = (weights @ each / weights.sum() for each in (inputs, outputs))
    centred = (inputs - mean) * share
    # Ridge regression is least squares with a row for every weight, which asks it to stay as it is.
    ridge = (RIDGE * centred.square().sum(0).mean()).sqrt() * torch.eye(3, dtype=x.dtype)
    rows = torch.cat((centred, ridge)), torch.cat(((outputs - target) * share, ridge @ start.T))
    fitted = torch.linalg.lstsq(*rows).solution.T
    assert torch.allclose(solved, fitted, rtol=1e-6)
    assert torch.allclose(shift, target - mean @ fitted.T, rtol=1e-6)


def test_where_the_start_is_exact_nothing_changes() -> None:
    x = correlated(100, 6, 1)[0]
    x[:, 4:] = 0
    moments = Moments(6)
    moments.add(x, torch.ones(100))
    weight, bias = correlated(3, 6, 2)[0], torch.ones(3)
    kept = torch.arange(4)
    solved, shift = refit(moments.covariance, moments.mean, kept, weight, bias, weight[:, :4])
    assert torch.allclose(solved, weight[:, :4], rtol=1e-10)
    assert torch.allclose(shift, bias.double())


@pytest.mark.parametrize("others", [0.0, 1.0])
@pytest.mark.parametrize("noise", [0.0, 1e-15])
def test_channels_that_never_vary_go_into_the_bias_and_leave_small_weights(others: float, noise: float) -> None:
    x = torch.full((50, 4), 2.0, dtype=torch.float64)
    x[:, 2:] += others * correlated(50, 2, 3)[0]
    x[:, :2] += noise * correlated(50, 2, 4)[0]
    moments = Moments(4)
    moments.add(x, torch.ones(50))
    weight, bias = correlated(3, 4, 2)[0], torch.zeros(3)
    solved, shift = refit(moments.covariance, moments.mean, torch.tensor([1]), weight, bias, weight[:, 1:2])
    assert solved.abs().max() < 100
    assert torch.allclose(x[:, 1:2] @ solved.T + shift, (x @ weight.T).mean(0))
