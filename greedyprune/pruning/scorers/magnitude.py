"""`magnitude`: channels with large weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from greedyprune.pruning.kinds.channels import ChannelSite, by_group
from greedyprune.pruning.scorers.given import Given
from greedyprune.sites import HiddenSite


def magnitude_orders(given: Given) -> dict[str, Tensor]:
    """By the product of the norms of the weights that write a channel and of those that read it."""
    return {
        site.name: by_group(site, magnitudes(site, given.state).sort(descending=True, stable=True).indices)
        for site in given.channel_sites
    }


def magnitudes(site: ChannelSite, state: Mapping[str, Tensor]) -> Tensor:
    """A score `[width]` of each channel from the weights alone.

    It is the product of the L2 norms of the weights that write the channel and of those that read it, over all tensors
    that are sliced with it.
    """
    written, read = torch.zeros(site.full), torch.zeros(site.full)
    for part in site.slices:
        if part.roles in (("sampling",), ("statistic",)):
            continue
        tensor = state[part.name].detach().float().cpu().movedim(part.dim, 0)
        if isinstance(site, HiddenSite):  # a unit's power, each of its channels having the same part of it
            positions = site.positions(part, len(tensor))
            power = tensor.reshape(len(tensor), -1).square().sum(1)[positions].sum(1)  # [units]
            power = (power / site.unit).repeat_interleave(site.unit)
        else:
            power = tensor.reshape(part.blocks, site.full, -1).square().sum((0, 2))  # [width]
        if part.output:
            read += power
        else:
            written += power
    return (written * read).sqrt()
