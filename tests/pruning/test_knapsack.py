"""Widths for a budget against every possible choice."""

import itertools

import numpy as np
import pytest

from greedyprune.errors import UserError
from greedyprune.pruning.knapsack import Choices, allocate, cheapest


def spent(sites: list[Choices], chosen: tuple[int, ...]) -> tuple[float, float] | None:
    """Damage and cost of an index for every site, of which those inside something that left count nothing."""
    there = [site.inside < 0 or chosen[site.inside] != 0 for site in sites]
    for group in {site.group for site in sites if site.group}:
        if all(index == 0 for index, site in zip(chosen, sites, strict=True) if site.group == group):
            return None
    rows = [(site.damages[i], site.costs[i]) for site, i, counts in zip(sites, chosen, there, strict=True) if counts]
    return sum(damage for damage, _ in rows), sum(cost for _, cost in rows)


def compare(sites: list[Choices], shares: tuple[float, ...] = (0.0, 0.2, 0.5, 0.9, 1.0)) -> None:
    every = [
        found for chosen in itertools.product(*(range(len(s.costs)) for s in sites)) if (found := spent(sites, chosen))
    ]
    low, high = min(cost for _, cost in every), max(cost for _, cost in every)
    assert cheapest(sites) == pytest.approx(low, rel=1e-9)
    for share in shares:
        budget = low + share * (high - low)
        found = allocate(sites, budget)
        gone = [site.inside >= 0 and found[site.inside] == 0 for site in sites]
        assert [index is None for index in found] == gone
        mine = spent(sites, tuple(0 if index is None else index for index in found))
        assert mine is not None
        damage, cost = mine
        assert cost <= budget + 1e-8 * high
        assert damage == pytest.approx(min(d for d, c in every if c <= budget * (1 + 1e-9)), abs=1e-7)


def row(rng: np.random.Generator, count: int, **about: object) -> Choices:
    costs = np.sort(rng.uniform(1e6, 9e7, count)).tolist()
    return Choices(np.sort(rng.exponential(0.1, count))[::-1].tolist(), costs, **about)


@pytest.mark.parametrize("seed", range(8))
def test_the_allocation_is_the_best_of_all_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    compare([row(rng, int(count)) for count in rng.integers(2, 6, 4)])


@pytest.mark.parametrize("group", ["", "layers"])
@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_best_where_a_layer_takes_its_sites_with_it(seed: int, group: str) -> None:
    rng = np.random.default_rng(seed)
    sites: list[Choices] = [row(rng, 3)]
    for _ in range(3):
        layer = len(sites)
        sites.append(Choices([float(rng.exponential(0.5)), 0.0], [0.0, float(rng.uniform(1e6, 9e7))], group=group))
        sites += [row(rng, int(rng.integers(1, 4)), inside=layer) for _ in range(rng.integers(0, 3))]
    compare(sites)


def test_one_of_a_group_stays_though_none_of_them_is_worth_anything() -> None:
    harmless = [Choices([0.0, 0.0], [0.0, cost], group="layers") for cost in (7.0, 5.0, 9.0)]
    assert any(allocate(harmless, 100))
    assert allocate(harmless, 5) == [0, 1, 0]
    assert cheapest(harmless) == 5
    compare([*harmless, Choices([1.0, 0.0], [1.0, 3.0], inside=1), Choices([0.2, 0.0], [0.0, 4.0], group="others")])


def test_of_equal_damage_the_cheaper_width_is_taken() -> None:
    assert allocate([Choices([0.0, 0.0, 0.0], [5.0, 3.0, 9.0])], 100) == [1]


def test_a_budget_below_the_least_cost_is_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"budget 4 is below 5"):
        allocate([Choices([1.0, 0.0], [2.0, 4.0]), Choices([1.0, 0.0], [3.0, 4.0])], 4)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_best_where_costs_are_products_of_what_two_sites_have(seed: int) -> None:
    """A chain with a site that two others read, as in convolutional networks; what lies between is a product."""
    rng = np.random.default_rng(seed)
    sizes = [np.sort(rng.choice(np.arange(8, 65), 4, replace=False)).tolist() for _ in range(5)]
    damages = [np.sort(rng.exponential(0.1, 4))[::-1].tolist() for _ in range(5)]
    sites = [Choices(d, [27.0 * s for s in size], sizes=size) for d, size in zip(damages, sizes, strict=True)]
    pairs = {pair: float(rng.uniform(1, 9)) for pair in ((0, 1), (1, 2), (1, 3), (2, 4), (3, 4))}
    every = []
    for chosen in itertools.product(range(4), repeat=5):
        own = [size[index] for size, index in zip(sizes, chosen, strict=True)]
        cost = 27 * sum(own) + sum(each * own[a] * own[b] for (a, b), each in pairs.items())
        every.append((cost, sum(d[index] for d, index in zip(damages, chosen, strict=True)), chosen))
    low, high = min(every)[0], max(every)[0]
    assert cheapest(sites, pairs) == pytest.approx(low)
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        budget = low + share * (high - low)
        found = allocate(sites, budget, pairs)
        cost, damage = next((cost, damage) for cost, damage, chosen in every if chosen == tuple(found))
        assert cost <= budget * (1 + 1e-8)
        assert damage == pytest.approx(min(d for c, d, _ in every if c <= budget * (1 + 1e-9)), abs=1e-7)
