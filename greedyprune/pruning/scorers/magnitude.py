"""`magnitude`: channels with large weights."""

from torch import Tensor

from greedyprune.pruning.kept import magnitudes
from greedyprune.pruning.scorers.given import Given
from greedyprune.pruning.scorers.select import by_group


def magnitude_orders(given: Given) -> dict[str, Tensor]:
    """By the product of the norms of the weights that write a channel and of those that read it."""
    return {
        site.name: by_group(site, magnitudes(site, given.state).sort(descending=True, stable=True).indices)
        for site in given.layer_sites
    }
