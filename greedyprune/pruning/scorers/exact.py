"""`exact`: the published score, one whole-network forward for each candidate channel."""

import torch
from torch import Tensor

from greedyprune.models.criterion import Criterion
from greedyprune.pruning.prefix import advance, site_place
from greedyprune.pruning.schedule import grow
from greedyprune.pruning.score import candidate_losses
from greedyprune.pruning.scorers.given import Given
from greedyprune.pruning.scorers.select import by_group
from greedyprune.pruning.sites import Site

SCORING_IMAGES = 16  # of the calibration images: this is the slow one
FFN_ROUNDS = 16  # an FFN's order is found in this many rounds, an attention's channel by channel in every head


def exact_orders(given: Given) -> dict[str, Tensor]:
    """Every site grown from nothing, each round by the channels that lower the detection loss most."""
    return {site.name: by_group(site, torch.tensor(growth(given, site))) for site in given.layer_sites}


def growth(given: Given, site: Site) -> list[int]:
    """A site's channels in the order in which they come back, all other sites being dense."""
    step = round_step(site)
    criterion = Criterion(given.model.options.num_classes)
    batches, images = [], 0
    with torch.inference_mode():
        for prefix, targets in given.batches():
            if images < SCORING_IMAGES:
                batches.append((advance(given.model, prefix, site_place(site)), targets))
                images += prefix.images
    order: list[int] = []
    while len(order) < site.width:
        kept = sorted(order)
        candidates = [channel for channel in range(0, site.width, site.unit) if channel not in order]
        losses = candidate_losses(given.model, site, kept, candidates, batches, criterion)
        added = set(grow(site, kept, candidates, losses, step)) - set(kept)
        ranked = sorted(zip(losses.tolist(), candidates, strict=True))
        order += [c for _, first in ranked if first in added for c in range(first, first + site.unit)]
    return order


def round_step(site: Site) -> int:
    """Channels that come back in a round."""
    return site.grain if site.kind != "ffn" else max(1, site.width // FFN_ROUNDS)


def candidate_count(site: Site) -> int:
    """Candidates of all rounds: each costs a forward of every scoring image."""
    return sum(range(site.width, 0, -round_step(site))) // site.unit
