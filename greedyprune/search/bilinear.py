"""Costs that are sums of products of widths: of convolutions and linear layers, whose weights have two sides."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

import torch

from greedyprune.sites import HiddenSite, Slice, Widths

Side = tuple[int, dict[str, int]]  # positions that always stay, and how many more every unit of a site has


@dataclass
class Bilinear:
    """A cost at any widths of some sites, everything else being dense: exact, in whole numbers.

    A weight `[out, in, *taps]` costs a constant times its size, and its sides grow with the widths of sites, of which
    several may lie in one side, or one in both.

    Attributes:
        sites: by name, those that it depends on.
        constant: the part that no width changes.
        linear: by site, what each unit costs.
        quadratic: by two sites, or twice the same, what each pair of their units costs.
    """

    sites: Mapping[str, HiddenSite]
    constant: int = 0
    linear: dict[str, int] = field(default_factory=dict)
    quadratic: dict[tuple[str, str], int] = field(default_factory=dict)

    def __call__(self, widths: Widths) -> int:
        """The cost; a site that is not named is dense."""
        units = {name: widths.get(name, site.full) // site.unit for name, site in self.sites.items()}
        linear = sum(each * units[name] for name, each in self.linear.items())
        return self.constant + linear + sum(q * units[a] * units[b] for (a, b), q in self.quadratic.items())

    def add(self, sides: list[Side], factor: int) -> None:
        """Count a tensor in whose size is the product of its sides, one or two of which depend on widths."""
        (first, own), (second, other) = sides[0], sides[1] if len(sides) > 1 else (1, {})
        self.constant += factor * first * second
        for grow, beside in ((own, second), (other, first)):
            for name, each in grow.items():
                self.linear[name] = self.linear.get(name, 0) + factor * each * beside
        for a, one in own.items():
            for b, two in other.items():
                pair = (a, b) if a <= b else (b, a)
                self.quadratic[pair] = self.quadratic.get(pair, 0) + factor * one * two

    def own(self, name: str, width: int) -> int:
        """What a site costs by itself at a width, its products with others left out."""
        units = width // self.sites[name].unit
        return self.linear.get(name, 0) * units + self.quadratic.get((name, name), 0) * units**2

    @property
    def pairs(self) -> dict[tuple[str, str], float]:
        """By two sites what each pair of their channels costs."""
        return {(a, b): q / (self.sites[a].unit * self.sites[b].unit) for (a, b), q in self.quadratic.items() if a != b}


def bilinear(
    sites: Iterable[HiddenSite], shapes: Mapping[str, torch.Size], factors: Mapping[str, int], dense: int
) -> Bilinear:
    """A cost as a function of the widths of sites.

    Args:
        sites: the sites.
        shapes: of all tensors of the dense model.
        factors: what an element of a tensor costs; one that is not named costs nothing.
        dense: the cost of the dense model.
    """
    named = {site.name: site for site in sites}
    cut: dict[str, dict[int, list[tuple[HiddenSite, Slice]]]] = {}
    for site in named.values():
        for part in site.slices:
            cut.setdefault(part.name, {}).setdefault(part.dim, []).append((site, part))
    result = Bilinear(named)
    for name, dims in cut.items():
        if factor := factors.get(name, 0):
            others = prod(size for dim, size in enumerate(shapes[name]) if dim not in dims)
            result.add([_side(shapes[name][dim], each) for dim, each in sorted(dims.items())], factor * others)
    result.constant += dense - result({})
    return result


def _side(size: int, parts: Iterable[tuple[HiddenSite, Slice]]) -> Side:
    grows = {}
    for site, part in parts:
        units = site.full // site.unit
        grows[site.name] = len(part.places[0]) if part.places else size // units
        size -= grows[site.name] * units
    return size, grows


def sliceable(sites: Iterable[HiddenSite], shapes: Mapping[str, torch.Size], factors: Mapping[str, int]) -> list[str]:
    """The sites of whose tensors all but vectors are weights that a factor is known of."""
    found = []
    for site in sites:
        names = {part.name for part in site.slices if sum(size > 1 for size in shapes[part.name]) > 1}
        if all(name in factors for name in names) and not site.also:
            found.append(site.name)
    return found
