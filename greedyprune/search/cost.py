"""Parameters and multiply-adds of proposals, in the deployed form, from their widths alone."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from greedyprune.evaluation.profile import WHOLE, count_flops, count_parameters, flops_by_weight
from greedyprune.families.base import Family
from greedyprune.pruning.transplant import shape_change
from greedyprune.search.bilinear import Bilinear, bilinear, sliceable
from greedyprune.search.options import COSTS
from greedyprune.sites import AttentionSite, HiddenSite, Site, Widths, installed


@dataclass(frozen=True)
class Counted:
    """A cost that is counted on a model without memory or arithmetic (on PyTorch's `meta` device).

    Attributes:
        label: what tables and plots call it.
        count: from the family, the model, and height and width of an image in pixels.
        format: a cost with its unit.
    """

    label: str
    count: Callable[[Family, nn.Module, tuple[int, int]], float]
    format: Callable[[float], str] = "{:.4g}".format


COUNTED: dict[str, Counted] = {}  # those that were registered, beside multiply-adds and parameters


def register(name: str, counted: Counted) -> None:
    """Make a cost known, by the name that `--cost` and `SearchOptions.cost` take.

    Raises:
        ValueError: there is one of that name.
    """
    if name in COSTS:
        raise ValueError(f"there is a cost {name} already")
    COUNTED[name] = counted
    COSTS.append(name)


@dataclass(frozen=True)
class Cost:
    """What one forward pass over one image takes.

    Attributes:
        params: parameters.
        flops: multiply-adds.
        others: those that were registered, by name.
    """

    params: int
    flops: int
    others: Mapping[str, float] = field(default_factory=dict)

    def of(self, kind: str) -> float:
        """The one that is asked for: `params`, `flops`, or the name of another."""
        return {"params": self.params, "flops": self.flops, **self.others}[kind]


class CostModel:
    """Costs of a detector at any widths, counted on a copy without memory or arithmetic.

    Where only widths of hidden channels differ, they follow from one count by a formula, held against a second count.

    Args:
        family: of the detector.
        model: the dense detector.
        sites: those that have widths here.
        size: height and width in pixels of the image that multiply-adds are counted for.

    Attributes:
        full: site name -> dense width.
        dense: cost of the dense detector.
    """

    def __init__(self, family: Family, model: nn.Module, sites: Sequence[Site], size: tuple[int, int]) -> None:
        self.family, self.sites, self.size = family, sites, size
        self.full = {site.name: site.full for site in sites}
        self._constant = family.constants(model, size)
        self._shape = deepcopy(model).to("meta").eval()
        self._state = dict(self._shape.state_dict())
        self._known: dict[tuple[int, ...], Cost] = {}
        self.dense = self._counted({})
        self._by_width = self._formulas()
        self._holders = {site.inside for site in sites} & self.full.keys()

    def __call__(self, widths: Widths) -> Cost:
        """Parameters and multiply-adds of the whole detector with these widths."""
        if self._by_width and all(n in self._plain or width == self.full.get(n, width) for n, width in widths.items()):
            return Cost(self._by_width["params"](widths), self._by_width["flops"](widths))
        return self._counted(widths)

    @property
    def _plain(self) -> Mapping[str, HiddenSite]:
        """The sites whose widths cost by a formula."""
        return next(iter(self._by_width.values())).sites if self._by_width else {}

    def formula(self, kind: str) -> Bilinear | None:
        """The cost by the widths of all sites; None: there are sites that no formula has."""
        whole = len(self._plain) == len(self.sites)
        return self._by_width.get(kind) if whole else None

    def _counted(self, widths: Widths) -> Cost:
        """What a forward pass of the slim model counts."""
        key = tuple(widths.get(site.name, site.full) for site in self.sites)
        if key not in self._known:
            change = shape_change(self.sites, self._state, widths).to(torch.device("meta"))
            with installed(self._shape, change):
                params = count_parameters(self.family, self._shape)[WHOLE]
                fast = self._fast()
                flops = count_flops(self.family, fast, self.size)[WHOLE]
                others = {n: each.count(self.family, self._shape, self.size) for n, each in COUNTED.items()}
                self._known[key] = Cost(params, flops, others)
        return self._known[key]

    def _fast(self) -> nn.Module:
        return self.family.deployed(self._shape, self.size, self._constant)

    def _formulas(self) -> dict[str, Bilinear]:
        """Costs by the widths of hidden sites, if they are what is counted with all of these at their least width."""
        hidden = [site for site in self.sites if isinstance(site, HiddenSite)]
        if not hidden or COUNTED:
            return {}
        shapes = {name: tensor.shape for name, tensor in self._state.items()}
        fast = self._fast()
        same = {name for name, tensor in fast.named_parameters() if shapes.get(name) == tensor.shape}
        flops = {n: each for n, each in flops_by_weight(self.family, fast, self.size).items() if n in same}
        params = dict.fromkeys((name for name, _ in self._shape.named_parameters()), 1)
        names = set(sliceable(hidden, shapes, flops))
        plain = [site for site in hidden if site.name in names]
        if not plain:
            return {}
        found = {
            "params": bilinear(plain, shapes, params, self.dense.params),
            "flops": bilinear(plain, shapes, flops, self.dense.flops),
        }
        least = {site.name: site.least for site in plain}
        counted = self._counted(least)
        return found if all(each(least) == counted.of(kind) for kind, each in found.items()) else {}

    @cached_property
    def _least(self) -> dict[str, Cost]:
        """Costs of the detector with one site at its least width, by the site's name, where no formula tells it."""
        return {
            site.name: self({site.name: site.least})
            for site in self.sites
            if site.least < site.full and site.name not in self._plain
        }

    @cached_property
    def _products(self) -> dict[tuple[str, str], Cost]:
        """Costs of the detector with two sites at their least widths that share a tensor, by their names."""
        return {pair: self({name: self._thin(name) for name in pair}) for pair in self._neighbours()}

    def alone(self, name: str, width: int, kind: str) -> float:
        """Cost of a site at a width, everything else being dense; as a rule it is linear in the width.

        Of a site that others are inside of it is what leaves with it beside them.
        """
        site = next(site for site in self.sites if site.name == name)
        if name in self._plain:
            formula = self._by_width[kind]
            return formula({name: width}) - formula({name: 0})
        if name not in self._least:
            return 0.0
        saved = self.dense.of(kind) - self._least[name].of(kind)
        if name in self._holders:
            inner = (other for other in self.sites if other.inside == name)
            own = saved - sum(self.alone(other.name, other.full, kind) for other in inner)
            return own if width else 0.0
        return saved / (site.full - site.least) * width

    def channels(self, kind: str) -> float:
        """What the channels of all sites cost: what would be saved if none were left, as far as that adds up.

        What two sites that share a tensor lose together is less than what they lose one by one.
        """
        channel = [site.name for site in self.sites if isinstance(site, (AttentionSite, HiddenSite))]
        total = sum(self.alone(name, self.full[name], kind) for name in channel if name not in self._plain)
        if self._plain:
            total += self.dense.of(kind) - self._by_width[kind](dict.fromkeys(self._plain, 0))
        for (first, second), both in self._products.items():
            pair = {name: self._thin(name) for name in (first, second)}
            fewer = {name: self.full[name] - width for name, width in pair.items()}
            one_by_one = sum(self.alone(n, self.full[n], kind) - self.alone(n, pair[n], kind) for n in pair)
            lost = self.dense.of(kind) - both.of(kind)
            product = (one_by_one - lost) / (fewer[first] * fewer[second])
            total -= product * self.full[first] * self.full[second]
        return total

    def _thin(self, name: str) -> int:
        return next(site.least for site in self.sites if site.name == name)

    def _neighbours(self) -> list[tuple[str, str]]:
        """Pairs of sites of which one writes with a tensor that reads the other."""
        readers = {part.name: site.name for site in self.sites for part in site.slices if part.output}
        pairs = []
        for site in self.sites:
            for part in site.slices:
                other = readers.get(part.name)
                if part.output or other is None or other == site.name or site.least == site.full:
                    continue
                if not {other, site.name} <= self._plain.keys():  # else a formula has their product
                    pairs.append((other, site.name))
        return sorted(set(pairs))
