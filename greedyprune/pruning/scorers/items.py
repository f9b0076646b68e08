"""The order of the items of a count: what each of them does for the answers."""

from collections.abc import Sequence

import torch

from greedyprune.pruning.bench import Activations
from greedyprune.pruning.damage import divergence
from greedyprune.sites import CountSite


def item_order(site: CountSite, images: Activations) -> list[int]:
    """Items of a count, from most to least worth keeping.

    Queries by what they find, the sum of their best chances; each other item by the damage of leaving it out alone.

    Args:
        site: the count.
        images: calibration images.
    """
    if site.full == 1 or not (site.slices or site.skips):  # the model ranks its items itself, and takes the best
        return list(range(site.full))
    return _ranked(_finds(images, site.copies) if site.queries else _damages(site, images))


def _ranked(worth: Sequence[float]) -> list[int]:
    return sorted(range(len(worth)), key=lambda item: (-worth[item], item))


def _finds(images: Activations, copies: int) -> list[float]:
    """What every query finds, over all images.

    Squared, so that one query that is sure counts more than many that guess.
    """
    found = [answer.link.confidence(answer.logits).double().square().sum(0) for answer, _ in images.answers()]
    total: list[float] = torch.stack(found).sum(0).view(copies, -1).sum(0).tolist()
    return total


def _damages(site: CountSite, images: Activations) -> list[float]:
    from greedyprune.pruning.kinds.count import without

    dense = [answer.last() for answer, _ in images.answers()]
    result = []
    for item in range(site.full):
        change = without(site, images.bench.state, [other for other in range(site.full) if other != item])
        answers = (answer for answer, _ in images.answers(change))
        damage = sum(divergence(a, d, change.pairing).sum().item() for a, d in zip(answers, dense, strict=True))
        result.append(damage)
    return result
