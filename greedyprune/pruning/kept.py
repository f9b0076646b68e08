"""Kept sets: which channels of a site survive."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from greedyprune.cfgs import Cfgs
from greedyprune.errors import UserError
from greedyprune.models.detector import Detector
from greedyprune.pruning.sites import Site, list_sites

KeptSets = dict[str, tuple[int, ...]]


def check_kept(site: Site, kept: Iterable[int]) -> tuple[int, ...]:
    """A site's kept set, ascending.

    Raises:
        UserError: it is empty, names a channel twice or one that is not there, keeps more of one head than of
            another, or a part of one where heads leave whole.
    """
    channels = tuple(sorted(kept))
    if not channels:
        raise UserError(f"site {site.name} keeps no channel; it needs at least {site.grain}")
    if len(set(channels)) != len(channels) or channels[0] < 0 or channels[-1] >= site.width:
        raise UserError(f"site {site.name}: kept channels must be different numbers of 0..{site.width - 1}")
    whole = {unit * site.unit + offset for unit in site.units(channels) for offset in range(site.unit)}
    if torn := whole.difference(channels):
        raise UserError(
            f"site {site.name} keeps a part of head {min(torn) // site.unit}; its {site.unit} channels stay together"
        )
    counts = group_counts(site, channels)
    if len(set(counts)) != 1:
        raise UserError(f"site {site.name}: heads keep different numbers of channels: {counts}")
    return channels


def group_counts(site: Site, kept: Iterable[int]) -> list[int]:
    """Kept channels of each group."""
    counts = [0] * site.groups
    for channel in kept:
        counts[channel // site.group_width] += 1
    return counts


def full_kept(site: Site) -> tuple[int, ...]:
    """Every channel."""
    return tuple(range(site.width))


def kept_cfgs(model: Detector, kept: Mapping[str, Sequence[int]]) -> Cfgs:
    """The widths that kept sets leave of a model; a site that is not named stays as it is."""
    return model.cfgs.replace({name: len(channels) for name, channels in kept.items()})


def kept_from_scores(site: Site, scores: Tensor, width: int) -> tuple[int, ...]:
    """The `width` best channels by score `[site.width]`, the same number in every group; ties go to the first.

    Channels that stay together have the sum of their scores.
    """
    per_group = scores.view(site.groups, -1, site.unit).sum(2)  # [groups, units of a group]
    order = per_group.sort(dim=1, descending=True, stable=True).indices[:, : width // site.grain]
    units = order + torch.arange(site.groups)[:, None] * per_group.shape[1]
    channels = units[..., None] * site.unit + torch.arange(site.unit)  # [groups, units kept, unit]
    return tuple(sorted(channels.flatten().tolist()))


def kept_by_magnitude(model: Detector, cfgs: Cfgs) -> KeptSets:
    """Kept sets for people who have only the widths; see `magnitudes`. A dense backbone's channels are not named."""
    state = model.state_dict()
    widths = cfgs.widths("all")
    sites = list_sites(model, "all" if cfgs.backbone else "transformer")
    return {site.name: kept_from_scores(site, magnitudes(site, state), widths[site.name]) for site in sites}


def magnitudes(site: Site, state: Mapping[str, Tensor]) -> Tensor:
    """A score `[width]` of each channel from the weights alone.

    It is the product of the L2 norms of the weights that write the channel and of those that read it, over all tensors
    that are sliced with it.
    """
    written, read = torch.zeros(site.width), torch.zeros(site.width)
    for part in site.slices:
        if part.roles in (("sampling",), ("statistic",)):
            continue
        tensor = state[part.name].detach().float().cpu().movedim(part.dim, 0)
        power = tensor.reshape(part.blocks, site.width, -1).square().sum((0, 2))  # [width]
        if part.output:
            read += power
        else:
            written += power
    return (written * read).sqrt()


def kept_from_masks(model: Detector, masks: Mapping[str, Tensor]) -> tuple[KeptSets, int]:
    """Kept sets of a published search-time checkpoint.

    The published search lets channels wander between heads. Here every head keeps the same number, so heads with too
    many give up the channels with the smallest `prune_a`, and heads with too few take back their largest.

    Args:
        model: the dense detector.
        masks: site name -> `prune_a` `[width]`; a channel is kept where it is > 0.

    Returns:
        The kept sets, and how many channels had to be exchanged between heads.

    Raises:
        UserError: a mask of another width, or one that keeps nothing.
    """
    kept: KeptSets = {}
    exchanged = 0
    for site in list_sites(model):
        if site.name not in masks:
            continue
        mask = masks[site.name]
        if len(mask) != site.width:
            raise UserError(f"the search mask of {site.name} has {len(mask)} channels, the model has {site.width}")
        chosen = int((mask > 0).sum())
        if not chosen:
            raise UserError(f"the search mask of {site.name} keeps no channel: the search had not reached it")
        width = max(site.grain, round(chosen / site.grain) * site.grain)
        kept[site.name] = kept_from_scores(site, mask, width)
        wanted = set(torch.nonzero(mask > 0).flatten().tolist())
        exchanged += len(set(kept[site.name]) - wanted)
    return kept, exchanged
