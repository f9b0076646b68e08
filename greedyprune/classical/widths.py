"""Widths from shares: how many channels stay where a share of each layer's leaves."""

from collections.abc import Iterable
from math import lcm

from greedyprune.classical.base import Subject
from greedyprune.sites import Site

MULTIPLE = 8  # widths are multiples of this, as hardware likes them


def kept_width(site: Site, share: float, multiple: int = MULTIPLE) -> int:
    """The width that is left: `full - int(full * share)`, down to a multiple.

    This is torch-pruning's rule with `round_to`. At least one multiple stays, and a site of which nothing is to leave
    keeps its width, whatever that is.

    Args:
        site: with its full width.
        share: of it that leaves.
        multiple: 1: any width.
    """
    leaving = int(site.full * share)
    if not leaving:
        return site.full
    step = lcm(multiple, site.grain)
    return min(site.full, max(site.least, step, (site.full - leaving) // step * step))


def kept_widths(subject: Subject, sites: Iterable[Site], share: float, multiple: int = MULTIPLE) -> dict[str, int]:
    """The widths of sites, of which none gets wider than it is."""
    return {site.name: min(site.full, kept_width(subject.whole[site.name], share, multiple)) for site in sites}
