"""`random`: any channels; what every other score must beat."""

import zlib

import numpy as np
import torch
from torch import Tensor

from greedyprune.pruning.kinds.channels import by_group
from greedyprune.pruning.scorers.given import Given


def random_orders(given: Given) -> dict[str, Tensor]:
    """A permutation that depends on the seed and the site's name alone."""
    orders = {}
    for site in given.channel_sites:
        draw = np.random.default_rng([given.seed, zlib.crc32(site.name.encode())])
        orders[site.name] = by_group(site, torch.from_numpy(draw.permutation(site.full)))
    return orders
