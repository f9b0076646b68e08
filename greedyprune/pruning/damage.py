"""How far a model's answer is from the dense one's when a site is cut: the damage table, and the widths it asks for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from torch import Tensor

from greedyprune.models.detector import Outputs
from greedyprune.pruning.knapsack import allocate
from greedyprune.pruning.sites import Site

BOX_CURVATURE = 50.0**2  # of a box coordinate, in units of the image's side, against a logit's
SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)


def divergence(answer: Outputs, dense: Outputs) -> Tensor:
    """How far an answer is from the dense model's, as the loss curves there; `[B]`, 0 when they are the same.

    The second-order term of the loss in what the last decoder layer says, the dense answer taken as the truth: summed
    over the queries, p (1 - p) / 2 times the squared error of each logit, and the squared error of each box coordinate
    as much as the dense query is confident. Such errors of several sites add up, which differences of the loss itself
    do not: near the dense model these are linear in the errors, and their sign is that of the images' own noise.
    """
    chance = dense["pred_logits"].sigmoid()
    logits = chance * (1 - chance) / 2 * (answer["pred_logits"] - dense["pred_logits"]).square()
    boxes = chance.amax(-1, keepdim=True) * (answer["pred_boxes"] - dense["pred_boxes"]).square()
    return logits.sum((1, 2)) + BOX_CURVATURE * boxes.sum((1, 2))


def width_grid(site: Site, step: int, shares: Sequence[float] = SHARES) -> list[int]:
    """Widths to measure, ascending: shares of the full width, rounded up to the step, and the full one."""
    return sorted({min(site.width, max(step, ceil(site.width * share / step) * step)) for share in (0.0, *shares, 1.0)})


@dataclass(frozen=True)
class DamageTable:
    """Measured damage of every site's widths, and what lies between them.

    Attributes:
        points: site name -> (widths ascending, damage of each).
        steps: site name -> the step of its width.
    """

    points: Mapping[str, tuple[Sequence[int], Sequence[float]]]
    steps: Mapping[str, int]

    def widths(self, name: str) -> list[int]:
        """Every width of a site between the least and the greatest that was measured."""
        measured = self.points[name][0]
        return [*range(measured[0], measured[-1], self.steps[name]), measured[-1]]

    def damage(self, name: str) -> list[float]:
        """The damage of each of `widths`: linear between measured ones.

        A narrower width never counts as less damage than a wider one: where that is measured, it is the noise of
        a few images.
        """
        widths, damages = self.points[name]
        monotone = np.maximum.accumulate(np.asarray(damages)[::-1])[::-1]
        return np.interp(self.widths(name), widths, monotone).tolist()

    def best_widths(
        self, cost: Callable[[str, int], float], total: Callable[[Mapping[str, int]], float], budget: float
    ) -> tuple[dict[str, int], float]:
        """The widths of least total damage within a budget, exactly, as far as damages and costs add up.

        Where the costs of sites do not quite add up (two inner widths of a bottleneck multiply), the sum is held to
        less until the real cost is within the budget.

        Args:
            cost: of a site at a width.
            total: of all sites at their widths.
            budget: the most that `total` may be; below the least possible it is the least possible.

        Returns:
            Width by site name, and their total damage.
        """
        names = list(self.points)
        costs = [[cost(name, width) for width in self.widths(name)] for name in names]
        damages = [self.damage(name) for name in names]
        least = sum(min(row) for row in costs)
        allowed = budget
        while True:
            chosen = allocate(damages, costs, max(allowed, least))
            widths = {name: self.widths(name)[i] for name, i in zip(names, chosen, strict=True)}
            real = total(widths)
            if real <= budget * (1 + 1e-9) or allowed <= least:
                return widths, sum(row[i] for row, i in zip(damages, chosen, strict=True))
            allowed = min(allowed - (real - budget), allowed * 0.999)
