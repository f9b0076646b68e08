"""Parameters and multiply-adds of a proposal, from its widths alone."""

from collections.abc import Mapping

import torch

from greedyprune.evaluation.profile import count_flops, count_parameters
from greedyprune.models.detector import Detector
from greedyprune.pruning.sites import list_sites


class CostModel:
    """Cost is linear in every site's width, so two widths of each site tell all.

    In a bottleneck, the convolution between its two sites costs the product of their widths: what both lose together is
    not what each loses alone, and is counted once for every pair.

    Args:
        model: the dense detector.
        size: height and width in pixels of the image that multiply-adds are counted for.
        prune: the sites that have widths here: `transformer`, `backbone` or `all`.
    """

    def __init__(self, model: Detector, size: tuple[int, int], prune: str = "transformer") -> None:
        self.size = size
        self.full = model.cfgs.widths(prune)
        self.params, self.flops = self._count(model, {})
        self.slopes: dict[str, tuple[float, float]] = {}
        for site in list_sites(model, prune):
            name, width, thin = site.name, site.width, site.grain
            if thin == width:
                self.slopes[name] = 0.0, 0.0
                continue
            params, flops = self._count(model, {name: thin})
            self.slopes[name] = (self.params - params) / (width - thin), (self.flops - flops) / (width - thin)

        # What two sites lose together is `product * fewer * fewer` less than what they lose one by one.
        self.products: dict[tuple[str, str], tuple[float, float]] = {}
        for first, second in self._bottlenecks():
            params, flops = self._count(model, {first: 1, second: 1})
            alone = self._fewer({first: 1, second: 1})
            both = (self.full[first] - 1) * (self.full[second] - 1)
            lost = self.params - params, self.flops - flops
            self.products[first, second] = (alone[0] - lost[0]) / both, (alone[1] - lost[1]) / both

    def _bottlenecks(self) -> list[tuple[str, str]]:
        """The two sites of every bottleneck."""
        pairs = [(name.removesuffix("2") + "1", name) for name in self.full if name.endswith("conv2")]
        return [pair for pair in pairs if min(self.full[name] for name in pair) > 1]

    def _count(self, model: Detector, widths: dict[str, int]) -> tuple[int, int]:
        with torch.device("meta"):  # shapes without memory or arithmetic
            shape = type(model)(model.options, model.cfgs.replace(widths)).eval()
        return count_parameters(shape)[0], count_flops(shape, self.size)[0]

    def __call__(self, widths: Mapping[str, int]) -> tuple[int, int]:
        """Parameters and multiply-adds of the whole model with these widths."""
        params, flops = self._fewer(widths)
        return round(self.params - params), round(self.flops - flops)

    def _fewer(self, widths: Mapping[str, int]) -> tuple[float, float]:
        """Parameters and multiply-adds that these widths save."""
        fewer = {name: self.full[name] - width for name, width in widths.items()}
        params = sum(count * self.slopes[name][0] for name, count in fewer.items())
        flops = sum(count * self.slopes[name][1] for name, count in fewer.items())
        for (first, second), product in self.products.items():
            both = fewer.get(first, 0) * fewer.get(second, 0)
            params, flops = params - both * product[0], flops - both * product[1]
        return params, flops

    def site_flops(self, widths: Mapping[str, int]) -> float:
        """Multiply-adds that lie in the sites alone: the part that pruning can remove."""
        return self._fewer(dict.fromkeys(widths, 0))[1] - self._fewer(widths)[1]
