"""What is being saved: multiply-adds, parameters or measured time, by site and width."""

from collections.abc import Mapping

import numpy as np

from greedyprune.search.bilinear import Bilinear
from greedyprune.search.cost import CostModel
from greedyprune.search.latency import LatencyTable
from greedyprune.sites import Widths


class Saving:
    """The cost of sites, in the unit that the user wants to save.

    Of a site's measured time only what lies above its least counts as its own.

    Args:
        cost: parameters and multiply-adds.
        kind: `flops`, `params` or `latency`.
        latency: for `latency`: `measure_sites` of the dense model.

    Attributes:
        dense: cost of the dense model.
        sites: cost of all sites at their full widths.
    """

    def __init__(self, cost: CostModel, kind: str, latency: LatencyTable | None = None) -> None:
        self.cost, self.kind, self._latency = cost, kind, latency
        self.dense = float(cost.dense.of(kind)) if latency is None else latency.dense
        self._floor = 0.0 if latency is not None else self.dense - cost.channels(kind)
        self.sites = self.of_sites(cost.full)

    def of_site(self, name: str, width: int) -> float:
        """A site at a width, everything else being dense."""
        if self._latency is not None:
            widths, times = self._latency.sites[name]
            return float(np.interp(width, widths, times)) - min(times)
        return self.cost.alone(name, width, self.kind)

    def of_sites(self, widths: Widths) -> float:
        """All sites at their widths."""
        if self._latency is not None:
            return sum(self.of_site(name, widths.get(name, full)) for name, full in self.cost.full.items())
        return float(self.cost(widths).of(self.kind)) - self._floor

    @property
    def formula(self) -> Bilinear | None:
        """The cost as a sum of products of widths; None: it is not."""
        return None if self._latency is not None else self.cost.formula(self.kind)

    def share_with(self, widths: Mapping[str, int]) -> float:
        """Cost of the whole model with these widths, as a share of the dense one's."""
        return 1 - (self.sites - self.of_sites(widths)) / self.dense

    def sites_share(self, budget: float) -> float:
        """A budget of the whole model, a share of the dense cost, as a share of the sites' cost."""
        return 1 - (1 - budget) * self.dense / self.sites
