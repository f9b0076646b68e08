"""`exact`: the published score, one forward of the whole detector for each candidate channel."""

import torch
from torch import Tensor

from greedyprune.pruning.bench import Activations
from greedyprune.pruning.growth import candidate_losses, grown
from greedyprune.pruning.kinds.channels import ChannelSite, by_group
from greedyprune.pruning.scorers.given import Given
from greedyprune.sites import HiddenSite

SCORING_IMAGES = 16  # of the calibration images: this is the slow one
ROUNDS = 16  # a hidden site's order is found in this many rounds, an attention's channel by channel in every head


def exact_orders(given: Given) -> dict[str, Tensor]:
    """Every site grown from nothing, each round by the channels that lower the detection loss most."""
    return {site.name: by_group(site, torch.tensor(growth(site, given.images))) for site in given.channel_sites}


def growth(site: ChannelSite, images: Activations) -> list[int]:
    """A site's channels in the order in which they come back, all other sites being dense."""
    step = round_step(site)
    order: list[int] = []
    while len(order) < site.full:
        kept = sorted(order)
        candidates = [channel for channel in range(0, site.full, site.unit) if channel not in order]
        losses = candidate_losses(images, site, kept, candidates, limit=SCORING_IMAGES)
        added = set(grown(site, kept, candidates, losses, step)) - set(kept)
        ranked = sorted(zip(losses.tolist(), candidates, strict=True))
        order += [c for _, first in ranked if first in added for c in range(first, first + site.unit)]
    return order


def round_step(site: ChannelSite) -> int:
    """Channels that come back in a round."""
    return max(1, site.full // ROUNDS) if isinstance(site, HiddenSite) else site.grain


def candidate_count(site: ChannelSite) -> int:
    """Candidates of all rounds: each costs a forward of every scoring image."""
    return sum(range(site.full, 0, -round_step(site))) // site.unit
