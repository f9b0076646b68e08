"""`select`: channels whose span gives most of the dense output, each chosen after those before it."""

from torch import Tensor

from greedyprune.pruning.kinds.base import State
from greedyprune.pruning.kinds.channels import ChannelSite, SiteMoments, by_group
from greedyprune.pruning.scorers.given import Given
from greedyprune.pruning.selection import Reading, forward_selection
from greedyprune.sites import HiddenSite


def select_orders(given: Given) -> dict[str, Tensor]:
    """Forward selection among all of a site's channels; each head takes its own in the order that this gives."""
    return {site.name: selected(site, given.state, given.moments[site.name]) for site in given.channel_sites}


def selected(site: ChannelSite, state: State, moments: SiteMoments) -> Tensor:
    """`[groups, units]` of a site, best first."""
    readings = [
        Reading(each.rows.covariance, each.metric(each.matrix(state[each.reader.weight]))) for each in moments.readers
    ]
    if isinstance(site, HiddenSite):  # a unit is a block
        return forward_selection(readings, site.full // site.unit)[0][None]
    return by_group(site, forward_selection(readings, site.full)[0])
