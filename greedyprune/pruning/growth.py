"""Sites that grow from nothing, each round by the channels that lower the detection loss most: the published score."""

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor

from greedyprune.pruning.bench import NOTHING, Activations
from greedyprune.pruning.kinds import kind_of
from greedyprune.pruning.kinds.channels import ChannelSite
from greedyprune.pruning.labels import loss_of
from greedyprune.sites import Change


def candidate_losses(
    images: Activations,
    site: ChannelSite,
    kept: Sequence[int],
    candidates: Sequence[int],
    base: Change = NOTHING,
    limit: int = 0,
) -> Tensor:
    """The detection loss with each candidate added to a site's kept set, one at a time.

    Args:
        images: scoring images with answers of all layers.
        site: the site that grows.
        kept: its channels so far; may be empty, and hold any number in each group.
        candidates: units that are not in `kept`, by their first channels.
        base: the other sites' change.
        limit: batches are scored until there are so many images; 0: all.

    Returns:
        `[len(candidates)]` float64, the mean over the images.
    """
    bench = images.bench
    loss = loss_of(bench.family, bench.model, "the exact score")
    losses = torch.zeros(len(candidates), dtype=torch.float64)
    for index, candidate in enumerate(candidates):
        channels = [*kept, *range(candidate, candidate + site.unit)]
        change = base | kind_of(site).masked_change(site, bench.state, channels)
        count = 0
        for answer, targets in images.answers(change):
            losses[index] += loss(answer, targets).double().cpu() * len(targets)
            count += len(targets)
            if limit and count >= limit:
                break
        losses[index] /= count
    return losses


def grown(
    site: ChannelSite, kept: Sequence[int], candidates: Sequence[int], losses: Tensor, step: int
) -> tuple[int, ...]:
    """The kept set with the best candidates added: the same number in every group, `step` channels in all.

    Ties go to the lower channel.
    """
    per_group = ceil(step / site.grain)  # units
    added: list[int] = []
    counts = [0] * site.groups
    for _, channel in sorted(zip(losses.tolist(), candidates, strict=True)):
        group = channel // site.group_width
        if counts[group] < per_group:
            counts[group] += 1
            added += range(channel, channel + site.unit)
    return tuple(sorted([*kept, *added]))
