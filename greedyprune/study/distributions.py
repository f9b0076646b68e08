"""Ranges of widths as Optuna's distributions."""

from collections.abc import Callable, Iterable
from math import gcd

from optuna.distributions import BaseDistribution, IntDistribution

from greedyprune.sites import Site


def width_distributions(sites: Iterable[Site], step: Callable[[Site], int]) -> dict[str, BaseDistribution]:
    """The range of every site's width, by its name.

    Args:
        sites: the sites.
        step: by how much the width of a site changes.
    """
    ranges: dict[str, BaseDistribution] = {}
    for site in sites:
        by = gcd(site.full, step(site))  # so that the dense width is in the range when the last step is a smaller one
        ranges[site.name] = IntDistribution(0 if site.least == 0 else by, site.full, step=by)
    return ranges
