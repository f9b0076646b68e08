"""Kept sets from scores, and from what published searches left behind."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.pruning.kinds.channels import ChannelSite, channels_of
from greedyprune.pruning.scorers.filters import ordered
from greedyprune.pruning.scorers.magnitude import magnitudes
from greedyprune.pruning.transplant import KeptSets
from greedyprune.sites import AttentionSite, HiddenSite, Site, Widths


def kept_from_scores(site: ChannelSite, scores: Tensor, width: int) -> tuple[int, ...]:
    """The `width` best channels by score `[site.full]`, the same number in every group; ties go to the first.

    Channels that stay together have the sum of their scores.
    """
    per_group = scores.view(site.groups, -1, site.unit).sum(2)  # [groups, units of a group]
    order = per_group.sort(dim=1, descending=True, stable=True).indices[:, : width // site.grain]
    units = order + torch.arange(site.groups)[:, None] * per_group.shape[1]
    channels = units[..., None] * site.unit + torch.arange(site.unit)  # [groups, units kept, unit]
    return tuple(sorted(channels.flatten().tolist()))


def kept_from_units(site: ChannelSite, scores: Tensor, width: int) -> tuple[int, ...]:
    """The channels of the best units by score `[units]`, the same number in every group; ties go to the first."""
    return channels_of(site, ordered(site, scores)[:, : width // site.grain])


def kept_by_magnitude(sites: Sequence[Site], state: Mapping[str, Tensor], widths: Widths) -> KeptSets:
    """Kept sets for people who have only the widths: channels by `magnitudes`, and the first items of counts."""
    kept: KeptSets = {}
    gone = {site.name for site in sites if widths.get(site.name, site.full) == 0}
    for site in sites:
        width = widths.get(site.name, site.full)
        if width == site.full or site.inside in gone:
            continue
        if isinstance(site, (AttentionSite, HiddenSite)):
            kept[site.name] = kept_from_scores(site, magnitudes(site, state), width)
        else:
            kept[site.name] = tuple(range(width))
    return kept


def kept_from_masks(sites: Sequence[Site], masks: Mapping[str, Tensor]) -> tuple[KeptSets, int]:
    """Kept sets of a published search-time checkpoint.

    The published search lets channels wander between heads. Here every head keeps the same number, so heads with too
    many give up the channels with the smallest `prune_a`, and heads with too few take back their largest.

    Args:
        sites: of the dense detector.
        masks: site name -> `prune_a` `[width]`; a channel is kept where it is > 0.

    Returns:
        The kept sets, and how many channels had to be exchanged between heads.

    Raises:
        UserError: a mask of another width, or one that keeps nothing.
    """
    kept: KeptSets = {}
    exchanged = 0
    for site in sites:
        if site.name not in masks or not isinstance(site, (AttentionSite, HiddenSite)):
            continue
        scores = masks[site.name]
        if len(scores) != site.full:
            raise UserError(f"the search mask of {site.name} has {len(scores)} channels, the model has {site.full}")
        wanted = set(torch.nonzero(scores > 0).flatten().tolist())
        if not wanted:
            raise UserError(f"the search mask of {site.name} keeps no channel: the search had not reached it")
        width = max(site.grain, round(len(wanted) / site.grain) * site.grain)
        kept[site.name] = kept_from_scores(site, scores, width)
        exchanged += len(set(kept[site.name]) - wanted)
    return kept, exchanged
