"""Ways to choose what a site keeps, each a function in a file of its own: from what is given to a cut of every site."""

from collections.abc import Callable

from torch import Tensor

from greedyprune.pruning.convolution import ConvolutionCut
from greedyprune.pruning.cut import KeptCut, SiteCut
from greedyprune.pruning.scorers.basis import basis_cuts
from greedyprune.pruning.scorers.exact import exact_orders
from greedyprune.pruning.scorers.given import Given
from greedyprune.pruning.scorers.magnitude import magnitude_orders
from greedyprune.pruning.scorers.random import random_orders
from greedyprune.pruning.scorers.select import select_orders
from greedyprune.pruning.scorers.taylor import taylor_orders

# From what is given to an order `[groups, units]` of every site, best first.
ORDERS: dict[str, Callable[[Given], dict[str, Tensor]]] = {
    "select": select_orders,
    "taylor": taylor_orders,
    "magnitude": magnitude_orders,
    "random": random_orders,
    "exact": exact_orders,
}
SCORERS = ("basis", *ORDERS)


def make_cuts(scorer: str, given: Given, refit: bool = True) -> dict[str, SiteCut]:
    """How every site is cut, by its name.

    Args:
        scorer: one of `SCORERS`.
        given: the dense detector and calibration images.
        refit: solve what reads the kept channels again; backbone sites always do.
    """
    cuts: dict[str, SiteCut] = {
        site.name: ConvolutionCut(site, given.state, given.unfolded[site.name])
        for site in given.sites
        if site.part == "backbone"
    }
    if scorer == "basis":
        return cuts | basis_cuts(given, refit)
    orders = ORDERS[scorer](given)
    return cuts | {
        site.name: KeptCut(site, given.state, orders[site.name], given.moments[site.name] if refit else None)
        for site in given.layer_sites
    }


__all__ = ["ORDERS", "SCORERS", "Given", "make_cuts"]
