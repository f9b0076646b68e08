"""Ways to choose what a site keeps, each a function in a file of its own, from what is given to orders of all sites."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from torch import Tensor

from greedyprune.pruning.bench import Activations
from greedyprune.pruning.scorers.exact import exact_orders
from greedyprune.pruning.scorers.filters import filter_global_orders, filter_l1_orders
from greedyprune.pruning.scorers.given import Given
from greedyprune.pruning.scorers.gradients import sensitivity_orders, sensitivity_weight_orders
from greedyprune.pruning.scorers.magnitude import magnitude_orders
from greedyprune.pruning.scorers.random import random_orders
from greedyprune.pruning.scorers.select import select_orders
from greedyprune.pruning.scorers.taylor import taylor_orders
from greedyprune.sites import Site

# From what is given to an order `[groups, units]` of every site, best first.
Scorer: TypeAlias = Callable[[Given], Mapping[str, Tensor]]
ORDERS: dict[str, Scorer] = {
    "select": select_orders,
    "taylor": taylor_orders,
    "magnitude": magnitude_orders,
    "random": random_orders,
    "exact": exact_orders,
    "filter_l1": filter_l1_orders,
    "filter_global": filter_global_orders,
    "sensitivity": sensitivity_orders,
    "sensitivity_weight": sensitivity_weight_orders,
    # The same with what the dense detector finds in the place of labels.
    "taylor_unlabelled": partial(taylor_orders, labelled=False),
    "sensitivity_unlabelled": partial(sensitivity_orders, labelled=False),
    "sensitivity_weight_unlabelled": partial(sensitivity_weight_orders, labelled=False),
}
SCORERS = ["basis", *ORDERS]  # basis: the closed form, attention rewritten and hidden channels by `select`


def register(name: str) -> Callable[[Scorer], Scorer]:
    """Make a scorer known, by the name that `--scorer` and `SearchOptions.scorer` take.

    Raises:
        ValueError: there is one of that name.
    """

    def known(scorer: Scorer) -> Scorer:
        if name in SCORERS:
            raise ValueError(f"there is a scorer {name} already")
        ORDERS[name] = scorer
        SCORERS.append(name)
        return scorer

    return known


def given(images: Activations, sites: Sequence[Site], seed: int = 0) -> Given:
    """What scorers look at: calibration images of a dense detector, and its sites."""
    return Given(images, sites, ORDERS, seed)


__all__ = ["ORDERS", "SCORERS", "Given", "given", "register"]
