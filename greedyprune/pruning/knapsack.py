"""Widths for a budget: the least damage that any choice of one width for every site can do."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix, lil_matrix

from greedyprune.errors import UserError


@dataclass(frozen=True)
class Choices:
    """The widths that one site can have.

    Attributes:
        damages: of every width.
        costs: of every width.
        inside: the number of the site whose first choice takes this one with it, or -1.
        group: sites of one group, not all of which may have their first choice; empty: none.
    """

    damages: Sequence[float]
    costs: Sequence[float]
    inside: int = -1
    group: str = ""


def allocate(sites: Sequence[Choices], budget: float) -> list[int | None]:
    """The multiple-choice knapsack, solved exactly (scipy's HiGHS, branch and bound).

    Args:
        sites: what can be chosen.
        budget: what the chosen costs may sum up to.

    Returns:
        For every site the index of its width, or None where another site takes it with it. Of a site's widths with
        equal damage it takes the cheapest.

    Raises:
        UserError: not even the cheapest widths fit the budget.
    """
    least = cheapest(sites)
    # Costs come from sums in floating point: a budget that is the least cost itself must fit.
    slack = 1e-9 * (abs(budget) + abs(least))
    if least > budget + slack:
        raise UserError(f"the budget {budget:,.0f} is below {least:,.0f}, the cost with every site at its least width")
    starts = np.cumsum([0, *(len(site.costs) for site in sites)])
    damage = np.concatenate([np.asarray(site.damages, dtype=float) for site in sites])
    cost = np.concatenate([np.asarray(site.costs, dtype=float) for site in sites])
    unit = max(np.abs(cost).max(), 1.0)  # the solver's tolerances are absolute
    scale = max(np.abs(damage).max(), 1e-12)
    constraints = [
        LinearConstraint(_one_each(sites, starts), 1, 1),
        LinearConstraint(cost[None] / unit, -np.inf, (budget + slack) / unit),
    ]
    for group in sorted({site.group for site in sites if site.group}):
        row = np.zeros((1, len(cost)))
        members = [int(start) for start, site in zip(starts, sites, strict=False) if site.group == group]
        row[0, members] = 1
        constraints.append(LinearConstraint(row, -np.inf, len(members) - 1))
    # A width that is both dearer and worse than another of its site is never taken: bounds of 0 say so. What leaves
    # together with a site is not in its own cost, and one of a group stays whatever it costs.
    holders = {site.inside for site in sites}
    open_ = [
        np.ones(len(site.costs)) if number in holders or site.group else _undominated(site)
        for number, site in enumerate(sites)
    ]
    solution = milp(
        damage / scale,
        constraints=constraints,
        integrality=np.ones(len(damage)),
        bounds=Bounds(0, np.concatenate(open_)),
        options={"mip_rel_gap": 0.0},
    )
    if solution.x is None:
        raise RuntimeError(f"the solver of the width budget failed: {solution.message}")
    parts = [solution.x[start:end] for start, end in pairwise(starts)]
    return [int(np.argmax(part)) if part.max() > 0.5 else None for part in parts]


def cheapest(sites: Sequence[Choices]) -> float:
    """The least that any choice costs."""
    held = {site.inside for site in sites}
    total = 0.0
    kept: dict[str, list[float]] = {}
    for number, site in enumerate(sites):
        if site.inside >= 0:
            continue
        inner = sum(min(other.costs) for other in sites if other.inside == number)
        if number not in held and not site.group:
            total += min(site.costs)
            continue
        stays = min(site.costs[1:], default=site.costs[0]) + inner
        total += min(site.costs[0], stays)
        if site.group:
            kept.setdefault(site.group, []).append(stays - min(site.costs[0], stays))
    return total + sum(min(more) for more in kept.values())  # one of a group stays


def _one_each(sites: Sequence[Choices], starts: np.ndarray) -> csr_matrix:
    """One width of every site, or the one that takes it with it."""
    matrix = lil_matrix((len(sites), int(starts[-1])))
    for number, site in enumerate(sites):
        matrix[number, starts[number] : starts[number + 1]] = 1
        if site.inside >= 0:
            matrix[number, starts[site.inside]] = 1
    return csr_matrix(matrix)


def _undominated(site: Choices) -> np.ndarray:
    """1.0 for every width that no other one beats in both, else 0.0; of equal ones the first stays."""
    damage, cost = np.asarray(site.damages), np.asarray(site.costs)
    better = (damage[None] <= damage[:, None]) & (cost[None] <= cost[:, None])  # [beaten, beater]
    equal = (damage[None] == damage[:, None]) & (cost[None] == cost[:, None])
    before = np.tri(len(damage), k=-1, dtype=bool)
    return (~(better & (~equal | before)).any(1)).astype(float)
