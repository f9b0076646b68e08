"""`filter_l1`, `filter_global`: filters with small weights leave, as published; no image is looked at.

A filter is what writes one unit of a site: a row of a convolution or of a linear layer, or of all those that write the
same channel. What reads it, its bias and its norm have no say.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from greedyprune.pruning.kinds.channels import ChannelSite, by_group
from greedyprune.pruning.scorers.given import Given
from greedyprune.sites import Slice


def filter_l1_orders(given: Given) -> dict[str, Tensor]:
    """By the sum of a filter's |w| (Li et al. 2017, section 3.1)."""
    return _orders(given, filter_l1)


def filter_global_orders(given: Given) -> dict[str, Tensor]:
    """By the mean square of a filter's weights, which orders a layer as `filter_global` does."""
    return _orders(given, filter_global)


def filter_l1(site: ChannelSite, state: Mapping[str, Tensor]) -> Tensor:
    """The sum of |w| `[units]` of every filter of a site."""
    return torch.stack([rows.abs().double().sum(1) for rows in _filters(site, state)]).sum(0)


def filter_global(site: ChannelSite, state: Mapping[str, Tensor]) -> Tensor:
    """The mean square `[units]` of every filter of a site, over the L2 norm of all of them."""
    filters = _filters(site, state)
    squares = torch.stack([rows.double().square().sum(1) for rows in filters]).sum(0)
    return against_layer(squares / sum(rows.shape[1] for rows in filters))


def against_layer(scores: Tensor) -> Tensor:
    """Scores `[n]` of a layer's filters over their L2 norm, so that those of two layers can be compared."""
    return scores / torch.linalg.vector_norm(scores).clamp(min=torch.finfo(scores.dtype).tiny)


def _filters(site: ChannelSite, state: Mapping[str, Tensor]) -> list[Tensor]:
    """`[units, n]` weights of every tensor that writes the site's channels."""
    found = []
    for part in site.slices:
        tensor = state[part.name].detach().cpu()
        if tensor.dim() > 1 and not part.output and part.roles not in (("sampling",), ("statistic",)):
            found.append(tensor_of_units(site, part, tensor))
    return found


def tensor_of_units(site: ChannelSite, part: Slice, tensor: Tensor) -> Tensor:
    """`[units, n]` what a slice's tensor holds of every unit."""
    return tensor.movedim(part.dim, 0)[site.positions(part, tensor.shape[part.dim])].flatten(1)


def _orders(given: Given, score: Callable[[ChannelSite, Mapping[str, Tensor]], Tensor]) -> dict[str, Tensor]:
    return {site.name: ordered(site, score(site, given.state)) for site in given.channel_sites}


def ordered(site: ChannelSite, scores: Tensor) -> Tensor:
    """`[groups, units]` by scores `[units]`, best first; ties go to the first."""
    return by_group(site, scores.sort(descending=True, stable=True).indices * site.unit)
