"""How far a model's answer is from the dense one's when a site is cut: the damage table, and the widths it asks for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor

from greedyprune.answer import Answer
from greedyprune.pruning.knapsack import Choices, allocate, cheapest
from greedyprune.pruning.pairing import assigned
from greedyprune.sites import Site
from greedyprune.sites.change import WHOLE, Pairing

BOX_CURVATURE = 50.0**2  # of a box coordinate, in units of the image's side, against a logit's
SPARE = 1e-3  # of a budget that may be left over
FIT = 1 + 1e-9  # sums in floating point: a budget that is met exactly must hold
HALVINGS = 12
TOLERANCE = 1e-3  # of the least damage
SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)


def divergence(answer: Answer, dense: Answer, pairing: Pairing = WHOLE) -> Tensor:
    """How far an answer is from the dense model's, as the loss curves there; `[B]`, 0 when they are the same.

    The second-order term of the loss in what the last layer says, the dense answer taken as the truth: summed over the
    queries, e^T H e / 2 of the error e of the logits, H being the curvature of their link, and the squared error of
    each box coordinate as much as the dense query is confident. Such errors of several sites add up, which differences
    of the loss itself do not: near the dense model these are linear in the errors, and their sign is that of the
    images' own noise. A dense query that is gone costs what answering nothing in its place would.

    Args:
        answer: of the changed model.
        dense: of the dense one.
        pairing: which of the dense queries are left.
    """
    if dense.ranked:
        gains, alone = pair_costs(answer, dense)
        return alone + gains.gather(2, assigned(gains)[..., None])[..., 0].sum(1)
    link, aim = dense.link, dense
    absent = torch.zeros_like(dense.boxes[:, 0, 0])
    if pairing.queries is not None:
        aim = dense.of_queries(pairing.queries)
        left = torch.ones(dense.logits.shape[1], dtype=torch.bool)
        left[pairing.queries] = False
        gone = left.to(dense.logits.device)
        # No box is one that has moved by its shorter side, which overlaps no more.
        sides = dense.boxes[:, gone, 2:].amin(-1)
        lost = BOX_CURVATURE * link.confidence(dense.logits[:, gone]) * sides.square()
        absent = (link.absence(dense.logits[:, gone]) + lost).sum(1)
    logits = link.half_curvature(aim.logits, answer.logits - aim.logits)
    boxes = link.confidence(aim.logits)[..., None] * (answer.boxes - aim.boxes).square()
    return absent + logits.sum(1) + BOX_CURVATURE * boxes.sum((1, 2))


def pair_costs(answer: Answer, dense: Answer) -> tuple[Tensor, Tensor]:
    """What pairing each query of an answer with each dense one costs less than leaving both alone.

    A dense query that is left alone costs what answering nothing in its place would, one of the answer that is left
    alone what it finds there. What a detection adds to AP is about the square of its chance, the chance that it is
    right times the precision where it stands; boxes count so here, since the ends of two rankings hold other ones.

    Args:
        answer: of the changed model, with at most as many queries.
        dense: of the dense one.

    Returns:
        `[B, q, Q]`, at most 0, and the cost of leaving everything alone, `[B]`.
    """
    link = dense.link
    own, aim = answer.logits[:, :, None], dense.logits[:, None]  # [B, q, 1, C], [B, 1, Q, C]
    shape = (*own.shape[:2], aim.shape[2], own.shape[-1])
    sure = BOX_CURVATURE * link.confidence(dense.logits).square()
    absent = link.absence(dense.logits) + sure * dense.boxes[..., 2:].amin(-1).square()
    found = link.absence(answer.logits)
    moved = (answer.boxes[:, :, None] - dense.boxes[:, None]).square().sum(-1)
    paired = link.half_curvature(aim.expand(shape), (own - aim).expand(shape)) + sure[:, None] * moved
    gains = (paired - absent[:, None] - found[:, :, None]).clamp(max=0.0)
    return gains, absent.sum(1) + found.sum(1)


def width_grid(site: Site, step: int, shares: Sequence[float] = SHARES) -> list[int]:
    """Widths to measure, ascending: shares of the full width, rounded up to the step, and the full one."""
    least = max(site.least, step) if site.least else 0
    return sorted({min(site.full, max(least, ceil(site.full * share / step) * step)) for share in (0.0, *shares, 1.0)})


@dataclass(frozen=True)
class DamageTable:
    """Measured damage of every site's widths, and what lies between them.

    Attributes:
        sites: the sites.
        points: site name -> (widths ascending, damage of each).
        steps: site name -> the step of its width.
    """

    sites: Sequence[Site]
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
        return self._damage(name, self.widths(name))

    def _damage(self, name: str, at: Sequence[int]) -> list[float]:
        widths, damages = self.points[name]
        monotone = np.maximum.accumulate(np.asarray(damages)[::-1])[::-1]
        return np.interp(at, widths, monotone).tolist()

    def best_widths(
        self, cost: Callable[[str, int], float], total: Callable[[Mapping[str, int]], float], budget: float
    ) -> tuple[dict[str, int], float]:
        """The widths of least total damage within a budget, exactly, as far as damages and costs add up.

        Where the costs of sites do not quite add up (two inner widths of a bottleneck multiply, and fewer queries make
        every layer after them cheaper), what the sum may be is searched for by halving.

        Args:
            cost: of a site at a width; of one that other sites are inside of, without theirs.
            total: of all sites at their widths.
            budget: the most that `total` may be; below the least possible it is the least possible.

        Returns:
            Width by site name, and their total damage. What is inside something that leaves keeps its width.
        """
        numbers = {site.name: number for number, site in enumerate(self.sites)}
        choices = [
            Choices(
                self.damage(site.name),
                [cost(site.name, width) for width in self.widths(site.name)],
                numbers.get(site.inside, -1),
                getattr(site, "one_of", ""),
            )
            for site in self.sites
        ]
        least = cheapest(choices)

        def chosen(allowed: float) -> tuple[dict[str, int], float, float]:
            """The best widths whose costs sum up to no more, their damage, and what they really cost together."""
            widths, damage = {}, 0.0
            picked = allocate(choices, max(allowed, least))
            for site, choice, index in zip(self.sites, choices, picked, strict=True):
                widths[site.name] = self.widths(site.name)[-1 if index is None else index]
                damage += 0.0 if index is None else choice.damages[index]
            return widths, damage, total(widths)

        widths, damage, real = chosen(budget)
        if (1 - SPARE) * budget <= real <= budget * FIT:
            return widths, damage
        # Between what surely fits and what surely does not, the most that may be allowed.
        low, high = (least, budget) if real > budget else (budget, sum(max(choice.costs) for choice in choices))
        best = (widths, damage) if real <= budget else chosen(least)[:2]
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            widths, damage, real = chosen(middle)
            if real > budget * FIT:
                high = middle
                continue
            low = middle
            if damage <= best[1]:
                best = widths, damage
        return best

    def best_chained_widths(
        self,
        own: Callable[[str, int], float],
        pairs: Mapping[tuple[str, str], float],
        total: Callable[[Mapping[str, int]], float],
        budget: float,
    ) -> tuple[dict[str, int], float]:
        """The same where costs are sums of what sites cost by themselves and of products of two of their widths.

        What is chosen is the best, to `TOLERANCE` of its damage, of all choices of measured widths; between these it
        is then refined, among five widths of every site around what was chosen before.

        Args:
            own: what a site costs by itself.
            pairs: by two sites what the product of their widths is multiplied with.
            total: of all sites; it may hold a constant beside.
            budget: see `best_widths`.
        """
        numbers = {site.name: number for number, site in enumerate(self.sites)}
        products = {(numbers[one], numbers[other]): each for (one, other), each in pairs.items()}
        full = {site.name: self.points[site.name][0][-1] for site in self.sites}
        known = sum(own(name, width) for name, width in full.items())
        known += sum(each * full[one] * full[other] for (one, other), each in pairs.items())
        allowed = budget - (total(full) - known)
        grids = {site.name: list(self.points[site.name][0]) for site in self.sites}
        while True:
            choices = [
                Choices(
                    self._damage(name, grid), [own(name, width) for width in grid], sizes=[float(each) for each in grid]
                )
                for name, grid in grids.items()
            ]
            picked = allocate(choices, max(allowed, cheapest(choices, products)), products, TOLERANCE)
            chosen = [0 if index is None else index for index in picked]
            finer = {
                name: _finer(grid, index, self.steps[name])
                for (name, grid), index in zip(grids.items(), chosen, strict=True)
            }
            if all(set(finer[name]) <= set(grid) for name, grid in grids.items()):
                widths = {name: grid[index] for (name, grid), index in zip(grids.items(), chosen, strict=True)}
                return widths, sum(self._damage(name, [width])[0] for name, width in widths.items())
            grids = finer


def _finer(grid: Sequence[int], index: int, step: int) -> list[int]:
    """Widths around one of a grid, with at most two more on either side, up to its neighbours."""
    found = {grid[index]}
    for neighbour in {grid[max(0, index - 1)], grid[min(len(grid) - 1, index + 1)]}:
        apart = abs(neighbour - grid[index])
        half = apart // 2 // step * step
        found |= {neighbour, grid[index] + (half if neighbour > grid[index] else -half)}
    return sorted(found)
