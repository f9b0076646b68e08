"""Widths for a budget: the least damage that any choice of one width for every site can do."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import block_diag, csr_matrix

from greedyprune.errors import UserError


def allocate(
    damages: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float, fixed: float = 0.0
) -> list[int]:
    """The multiple-choice knapsack, solved exactly (scipy's HiGHS, branch and bound).

    Args:
        damages: for every site the damage of each of its widths.
        costs: for every site the cost of each of its widths.
        budget: what the chosen costs and `fixed` may sum up to.
        fixed: cost that no width changes.

    Returns:
        For every site the index of its width. Of a site's widths with equal damage it takes the cheapest.

    Raises:
        UserError: not even the cheapest widths fit the budget.
    """
    least = fixed + sum(min(row) for row in costs)
    # Costs come from sums in floating point: a budget that is the least cost itself must fit.
    slack = 1e-9 * (abs(budget) + abs(least))
    if least > budget + slack:
        raise UserError(f"the budget {budget:,.0f} is below {least:,.0f}, the cost with every site at its least width")
    damage, cost = np.concatenate([*map(np.asarray, damages)]), np.concatenate([*map(np.asarray, costs)])
    unit = max(cost.max(), 1.0)  # the solver's tolerances are absolute
    scale = max(np.abs(damage).max(), 1e-12)
    # A width that is both dearer and worse than another of its site is never taken: bounds of 0 say so.
    open_ = np.concatenate([_undominated(np.asarray(d), np.asarray(c)) for d, c in zip(damages, costs, strict=True)])
    one_each = csr_matrix(block_diag([np.ones((1, len(row))) for row in damages]))
    solution = milp(
        damage / scale,
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(cost[None] / unit, -np.inf, (budget + slack - fixed) / unit),
        ],
        integrality=np.ones(len(damage)),
        bounds=Bounds(0, open_),
        options={"mip_rel_gap": 0.0},
    )
    if solution.x is None:
        raise RuntimeError(f"the solver of the width budget failed: {solution.message}")
    chosen, start = [], 0
    for row in damages:
        chosen.append(int(np.argmax(solution.x[start : start + len(row)])))
        start += len(row)
    return chosen


def _undominated(damage: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """1.0 for every width that no other one beats in both, else 0.0; of equal ones the first stays."""
    better = (damage[None] <= damage[:, None]) & (cost[None] <= cost[:, None])  # [beaten, beater]
    equal = (damage[None] == damage[:, None]) & (cost[None] == cost[:, None])
    before = np.tri(len(damage), k=-1, dtype=bool)
    return (~(better & (~equal | before)).any(1)).astype(float)
