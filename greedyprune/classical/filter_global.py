"""`filter_global`, `filter_global_max`: filters of all convolutions against one threshold.

A filter's score is its mean square, over the L2 norm of its layer's scores (`filter_global`), and then over the largest
of its layer (`filter_global_max`). Both are rules of published code, which calls them L1 and L2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

import torch
from torch import Tensor, nn

from greedyprune.classical.base import Method, Pruned, Subject
from greedyprune.classical.percentile import percentile
from greedyprune.classical.rows import zeroed
from greedyprune.pruning.kept import kept_from_units
from greedyprune.pruning.scorers.filters import against_layer, filter_global
from greedyprune.pruning.transplant import KeptSets, kept_change
from greedyprune.sites import HiddenSite


@dataclass(frozen=True)
class FilterGlobal(Method):
    """Filters whose score is below the percentile of all filters leave.

    Attributes:
        by_largest: scores are over the largest of their layer, too.
        whole: the last convolutions, which the published rule leaves whole.
        multiple: real cuts leave widths that are multiples of it, the nearest ones.
    """

    name: str = "filter_global"
    label: str = "filters of small mean square, all layers against one threshold"
    by_largest: bool = False
    whole: int = 4
    multiple: int = 8

    def prune(self, subject: Subject, amount: float) -> Pruned:
        state, sites = subject.model.state_dict(), subject.convolutions
        scores = {site.name: self._against_largest(filter_global(site, state)) for site in sites}
        missing = sum((subject.whole[site.name].full - site.full) // site.unit for site in sites)
        gone = torch.full((missing,), -1.0, dtype=torch.float64)  # filters that have left before
        threshold = percentile(torch.cat([*scores.values(), gone]), amount)
        kept: KeptSets = {}
        for site in sites:
            left = int((scores[site.name] >= threshold).sum()) * site.unit
            kept[site.name] = kept_from_units(site, scores[site.name], self._rounded(site, left))
        return Pruned(kept_change(subject.sites, state, kept))

    def published(self, subject: Subject, amount: float) -> Pruned:
        """Only rows of convolutions are zero; all of them are looked at, those too that no site is about."""
        names = [f"{name}.weight" for name, each in subject.model.named_modules() if isinstance(each, nn.Conv2d)]
        state = subject.model.state_dict()
        rows = self.rows([state[name] for name in names], amount)
        return zeroed(subject, dict(zip(names, rows, strict=True)))

    def rows(self, weights: Sequence[Tensor], amount: float) -> list[Tensor]:
        """The filters that the published rule keeps, `[filters]` bool of each convolution.

        Args:
            weights: `[filters, in, h, w]` of all convolutions, front to back.
            amount: the percentile of all scores below which a filter goes.
        """
        scores = [self._scores(weight) for weight in weights]
        threshold = percentile(torch.cat(scores), amount)
        pruned = len(weights) - self.whole
        return [
            score >= threshold if number < pruned else torch.ones_like(score).bool()
            for number, score in enumerate(scores)
        ]

    def _scores(self, weight: Tensor) -> Tensor:
        return self._against_largest(against_layer(weight.detach().cpu().double().square().flatten(1).mean(1)))

    def _against_largest(self, scores: Tensor) -> Tensor:
        return scores / scores.max().clamp(min=torch.finfo(scores.dtype).tiny) if self.by_largest else scores

    def _rounded(self, site: HiddenSite, width: int) -> int:
        if width == site.full:
            return width
        step = lcm(self.multiple, site.grain)
        return min(site.full, max(site.least, step, round(width / step) * step))
