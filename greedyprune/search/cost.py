"""Parameters and multiply-adds of a proposal, from its widths alone."""

from collections.abc import Mapping

import torch

from greedyprune.evaluation.profile import count_flops, count_parameters
from greedyprune.models.detector import Detector
from greedyprune.pruning.sites import list_sites


class CostModel:
    """Cost is linear in every site's width, so two widths of each site tell all.

    Args:
        model: the dense detector.
        size: height and width in pixels of the image that multiply-adds are counted for.
    """

    def __init__(self, model: Detector, size: tuple[int, int]) -> None:
        self.size = size
        self.full = model.cfgs.widths()
        self.params, self.flops = self._count(model, {})
        self.slopes: dict[str, tuple[float, float]] = {}
        for site in list_sites(model):
            name, width, thin = site.name, site.width, site.grain
            if thin == width:
                self.slopes[name] = 0.0, 0.0
                continue
            params, flops = self._count(model, {name: thin})
            self.slopes[name] = (self.params - params) / (width - thin), (self.flops - flops) / (width - thin)

    def _count(self, model: Detector, widths: dict[str, int]) -> tuple[int, int]:
        with torch.device("meta"):  # shapes without memory or arithmetic
            shape = type(model)(model.options, model.cfgs.replace(widths)).eval()
        return count_parameters(shape)[0], count_flops(shape, self.size)[0]

    def __call__(self, widths: Mapping[str, int]) -> tuple[int, int]:
        """Parameters and multiply-adds of the whole model with these widths."""
        params, flops = float(self.params), float(self.flops)
        for name, width in widths.items():
            fewer = self.full[name] - width
            params -= fewer * self.slopes[name][0]
            flops -= fewer * self.slopes[name][1]
        return round(params), round(flops)

    def site_flops(self, widths: Mapping[str, int]) -> float:
        """Multiply-adds that lie in the sites alone: the part that pruning can remove."""
        return sum(width * self.slopes[name][1] for name, width in widths.items())
