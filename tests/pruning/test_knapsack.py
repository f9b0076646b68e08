"""Widths for a budget against every possible choice."""

import itertools

import numpy as np
import pytest

from greedyprune.errors import UserError
from greedyprune.pruning.knapsack import allocate


@pytest.mark.parametrize("seed", range(8))
def test_the_allocation_is_the_best_of_all_choices(seed):
    rng = np.random.default_rng(seed)
    sites = [int(n) for n in rng.integers(2, 6, 4)]
    costs = [np.sort(rng.uniform(1e6, 9e7, n)).tolist() for n in sites]
    damages = [np.sort(rng.exponential(0.1, n))[::-1].tolist() for n in sites]
    fixed = 3e7
    low, high = sum(map(min, costs)), sum(map(max, costs))
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        budget = fixed + low + share * (high - low)
        found = allocate(damages, costs, budget, fixed)
        assert fixed + sum(row[i] for row, i in zip(costs, found, strict=True)) <= budget * (1 + 1e-8)
        best = min(
            sum(row[i] for row, i in zip(damages, choice, strict=True))
            for choice in itertools.product(*map(range, sites))
            if fixed + sum(row[i] for row, i in zip(costs, choice, strict=True)) <= budget * (1 + 1e-9)
        )
        assert sum(row[i] for row, i in zip(damages, found, strict=True)) == pytest.approx(best, abs=1e-7)


def test_of_equal_damage_the_cheaper_width_is_taken():
    assert allocate([[0.0, 0.0, 0.0]], [[5.0, 3.0, 9.0]], 100) == [1]


def test_a_budget_below_the_least_cost_is_refused_with_both_numbers():
    with pytest.raises(UserError, match=r"budget 4 is below 5"):
        allocate([[1.0, 0.0], [1.0, 0.0]], [[2.0, 4.0], [3.0, 4.0]], 4)
