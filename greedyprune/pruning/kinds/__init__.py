"""The kinds of sites, by the class that describes each."""

from typing import Any

from greedyprune.pruning.kinds.attention import AttentionKind
from greedyprune.pruning.kinds.base import Kind, Meter, SiteCut, State
from greedyprune.pruning.kinds.count import CountKind
from greedyprune.pruning.kinds.hidden import HiddenKind
from greedyprune.pruning.kinds.ratio import RatioKind
from greedyprune.sites import AttentionSite, CountSite, HiddenSite, RatioSite, Site

KINDS: dict[type[Site], Kind[Any]] = {
    AttentionSite: AttentionKind(),
    HiddenSite: HiddenKind(),
    CountSite: CountKind(),
    RatioSite: RatioKind(),
}


def register(site: type[Site], kind: Kind[Any]) -> None:
    """Make a kind of site known, by the class that describes it.

    Raises:
        ValueError: there is a kind for that class.
    """
    if site in KINDS:
        raise ValueError(f"there is a kind for {site.__name__} already")
    KINDS[site] = kind


def kind_of(site: Site) -> Kind[Any]:
    """What can be done with a site.

    Raises:
        TypeError: no kind is registered for its class.
    """
    if type(site) not in KINDS:
        raise TypeError(f"site {site.name} is a {type(site).__name__}, which no kind is registered for")
    return KINDS[type(site)]


__all__ = ["KINDS", "Kind", "Meter", "SiteCut", "State", "kind_of", "register"]
