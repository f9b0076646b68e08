"""Widths for a budget: the least damage that any choice of one width for every site can do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix

from greedyprune.errors import UserError


@dataclass(frozen=True)
class Choices:
    """The widths that one site can have.

    Attributes:
        damages: of every width.
        costs: of every width.
        inside: the number of the site whose first choice takes this one with it, or -1.
        group: sites of one group, not all of which may have their first choice; empty: none.
        sizes: of every width what goes into products; empty: there are none.
    """

    damages: Sequence[float]
    costs: Sequence[float]
    inside: int = -1
    group: str = ""
    sizes: Sequence[float] = ()


Products = Mapping[tuple[int, int], float]  # by the numbers of two sites, what the product of their sizes costs
NO_PRODUCTS: Products = {}


def allocate(
    sites: Sequence[Choices], budget: float, products: Products = NO_PRODUCTS, tolerance: float = 0.0
) -> list[int | None]:
    """The multiple-choice knapsack, solved exactly (scipy's HiGHS, branch and bound).

    A product of two sites' sizes u and t is linear in variables v_i = t x_i, x_i being the choices of the first: it is
    sum u_i v_i, and the v_i are what t_min x_i <= v_i <= t_max x_i and sum v_i = t say (McCormick 1976; exact, as the
    x_i are whole).

    Args:
        sites: what can be chosen.
        budget: what the chosen costs may sum up to, with those of products.
        products: what products cost, of sites that are inside of none; each at least 0.
        tolerance: the share of the least damage by which that of the answer may be greater.

    Returns:
        For every site the index of its width, or None where another site takes it with it. Of a site's widths with
        equal damage it takes the cheapest.

    Raises:
        UserError: not even the cheapest widths fit the budget.
    """
    least = cheapest(sites, products)
    # Costs come from sums in floating point: a budget that is the least cost itself must fit.
    slack = 1e-9 * (abs(budget) + abs(least))
    if least > budget + slack:
        raise UserError(f"the budget {budget:,.0f} is below {least:,.0f}, the cost with every site at its least width")
    starts = np.cumsum([0, *(len(site.costs) for site in sites)])
    damage = np.concatenate([np.asarray(site.damages, dtype=float) for site in sites])
    cost = np.concatenate([np.asarray(site.costs, dtype=float) for site in sites])
    unit = max(
        np.abs(cost).max(), *(c * max(sites[a].sizes) * max(sites[b].sizes) for (a, b), c in products.items()), 1.0
    )
    # The solver's tolerances are absolute.
    scale = max(np.abs(damage).max(), 1e-12)
    rows = _Rows(len(cost))
    budget_row = {column: value / unit for column, value in enumerate(cost)}
    for (one, other), each in products.items():
        thin, wide = (one, other) if len(sites[one].sizes) <= len(sites[other].sizes) else (other, one)
        for column, value in rows.product(sites[thin].sizes, starts[thin], sites[wide].sizes, starts[wide]).items():
            budget_row[column] = budget_row.get(column, 0.0) + each / unit * value
    rows.add(budget_row, -np.inf, (budget + slack) / unit)
    for number, site in enumerate(sites):
        own = dict.fromkeys(range(starts[number], starts[number + 1]), 1.0)
        rows.add({**own, **({int(starts[site.inside]): 1.0} if site.inside >= 0 else {})}, 1, 1)
    for group in sorted({site.group for site in sites if site.group}):
        members = [int(start) for start, site in zip(starts, sites, strict=False) if site.group == group]
        rows.add(dict.fromkeys(members, 1.0), -np.inf, len(members) - 1)
    # A width that is both dearer and worse than another of its site is never taken: bounds of 0 say so. What leaves
    # together with a site is not in its own cost, and one of a group stays whatever it costs.
    holders = {site.inside for site in sites}
    open_ = [
        np.ones(len(site.costs)) if number in holders or site.group else _undominated(site)
        for number, site in enumerate(sites)
    ]
    more = np.zeros(rows.columns - len(cost))
    solution = milp(
        np.concatenate((damage / scale, more)),
        constraints=rows.constraint(),
        integrality=np.concatenate((np.ones(len(damage)), more)),
        bounds=Bounds(0, np.concatenate((*open_, more + 1))),
        options={"mip_rel_gap": tolerance},
    )
    if solution.x is None:
        raise RuntimeError(f"the solver of the width budget failed: {solution.message}")
    parts = [solution.x[start:end] for start, end in pairwise(starts)]
    return [int(np.argmax(part)) if part.max() > 0.5 else None for part in parts]


class _Rows:
    """The constraints of a program, row by row.

    Args:
        columns: the variables that there are.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._rows: list[tuple[dict[int, float], float, float]] = []

    def add(self, row: Mapping[int, float], low: float, high: float) -> None:
        """low <= row <= high."""
        self._rows.append((dict(row), low, high))

    def product(self, sizes: Sequence[float], start: int, others: Sequence[float], other: int) -> dict[int, float]:
        """A row that is the product of what two sites have, with a new variable in 0..1 for each choice of the first.

        Args:
            sizes: of the first site.
            start: its first variable.
            others: of the second site.
            other: its first variable.
        """
        top, low = max(others), min(others)
        new = range(self.columns, self.columns + len(sizes))
        self.columns += len(sizes)
        chosen = {other + number: -size / top for number, size in enumerate(others)}
        self.add({**dict.fromkeys(new, 1.0), **chosen}, 0, 0)
        for number, column in enumerate(new):
            self.add({column: 1.0, start + number: -1.0}, -np.inf, 0)
            self.add({column: 1.0, start + number: -low / top}, 0, np.inf)
        return {column: size * top for column, size in zip(new, sizes, strict=True)}

    def constraint(self) -> LinearConstraint:
        entries = [(n, column, value) for n, (row, _, _) in enumerate(self._rows) for column, value in row.items()]
        numbers, columns, values = zip(*entries, strict=True)
        matrix = coo_matrix((values, (numbers, columns)), (len(self._rows), self.columns)).tocsr()
        return LinearConstraint(matrix, [row[1] for row in self._rows], [row[2] for row in self._rows])


def cheapest(sites: Sequence[Choices], products: Products = NO_PRODUCTS) -> float:
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
    total += sum(min(more) for more in kept.values())  # one of a group stays
    return total + sum(each * min(sites[a].sizes) * min(sites[b].sizes) for (a, b), each in products.items())


def _undominated(site: Choices) -> np.ndarray:
    """1.0 for every width that no other one beats in both, else 0.0; of equal ones the first stays."""
    damage, cost = np.asarray(site.damages), np.asarray(site.costs)
    size = np.asarray(site.sizes) if site.sizes else np.zeros(len(cost))
    better = (damage[None] <= damage[:, None]) & (cost[None] <= cost[:, None])  # [beaten, beater]
    better &= size[None] <= size[:, None]
    equal = (damage[None] == damage[:, None]) & (cost[None] == cost[:, None]) & (size[None] == size[:, None])
    before = np.tri(len(damage), k=-1, dtype=bool)
    return (~(better & (~equal | before)).any(1)).astype(float)
