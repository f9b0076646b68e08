"""`select`: channels whose span gives most of the dense output, each chosen after those before it."""

import torch
from torch import Tensor

from greedyprune.pruning.calibrate import SiteMoments
from greedyprune.pruning.cut import State
from greedyprune.pruning.scorers.given import Given
from greedyprune.pruning.selection import forward_selection
from greedyprune.pruning.sensitivity import channel_metric
from greedyprune.pruning.sites import Site


def select_orders(given: Given) -> dict[str, Tensor]:
    """Forward selection among all of a site's channels; each head takes its own in the order that this gives."""
    return {site.name: selected(site, given.state, given.moments[site.name]) for site in given.layer_sites}


def selected(site: Site, state: State, moments: SiteMoments) -> Tensor:
    """`[groups, units]` of a site, best first."""
    weight = channel_metric(moments.power) @ state[site.reads].double()
    order, _ = forward_selection(moments.rows.covariance, weight)
    return by_group(site, order)


def by_group(site: Site, order: Tensor) -> Tensor:
    """An order `[width]` of all channels as one of each group's units, `[groups, units]`: each by its best channel."""
    units = list(dict.fromkeys((order // site.unit).tolist()))
    own = site.group_width // site.unit
    return torch.tensor([[unit for unit in units if unit // own == group] for group in range(site.groups)])
