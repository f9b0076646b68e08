"""How much the loss rises when a site is cut: the damage table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from greedyprune.pruning.cut import SiteCut
from greedyprune.pruning.sites import Site


def width_grid(site: Site, step: int, shares: Sequence[float]) -> list[int]:
    """Widths to measure, ascending: shares of the full width, rounded up to the step; without the full one."""
    widths = {min(site.width, max(step, int(np.ceil(site.width * share / step)) * step)) for share in shares}
    return sorted(widths - {site.width})


@dataclass(frozen=True)
class DamageTable:
    """Measured damage of every site's widths, and what lies between them.

    Attributes:
        points: site name -> (widths ascending, damage of each). The dense width, of no damage, is the last.
        steps: site name -> the step of its width.
    """

    points: Mapping[str, tuple[tuple[int, ...], tuple[float, ...]]]
    steps: Mapping[str, int]

    def widths(self, name: str) -> list[int]:
        """Every width of a site between the least and the greatest that was measured."""
        measured = self.points[name][0]
        inner = range(measured[0], measured[-1], self.steps[name])
        return [*inner, measured[-1]]

    def damage(self, name: str) -> list[float]:
        """The damage of each of `widths`: linear between measured ones.

        A narrower width never counts as less damage than a wider one: where the loss says so, it is the noise of a few
        images.
        """
        widths, damages = self.points[name]
        monotone = np.maximum.accumulate(np.asarray(damages)[::-1])[::-1]
        return np.interp(self.widths(name), widths, monotone).tolist()


def measure_site(
    site: Site, cut: SiteCut, widths: Sequence[int], loss_with: Callable[[Mapping[str, object]], float], base: float
) -> list[float]:
    """Damage of a site's widths.

    Args:
        site: the site.
        cut: its slim tensors.
        widths: what to measure.
        loss_with: the model's loss with some of its tensors replaced.
        base: its loss without.
    """
    return [loss_with(cut.tensors(width)) - base for width in widths]
