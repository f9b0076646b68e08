"""The published score: the detection loss with one more channel."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from greedyprune.models.criterion import Criterion
from greedyprune.models.detector import Detector
from greedyprune.models.matcher import Target
from greedyprune.pruning.prefix import Prefix, finish
from greedyprune.pruning.sites import Site


@contextmanager
def grown_site(model: Detector, site: Site, kept: Sequence[int]) -> Iterator["Grower"]:
    """The site masked to `kept` inside the model, in place; the model is as it was afterwards.

    Args:
        model: a model whose site has its full width.
        site: the site.
        kept: channels that are on; may be none, and any number in each head.
    """
    state = model.state_dict()
    parts = [part for part in site.slices if not part.output]
    views = [state[part.name].unflatten(0, (part.blocks, site.width)) for part in parts]  # [blocks, width, ...]
    full = [view.clone() for view in views]
    off = torch.ones(site.width, dtype=torch.bool)
    off[list(kept)] = False
    for view in views:
        view[:, off] = 0
    try:
        yield Grower(views, full)
    finally:
        for view, values in zip(views, full, strict=True):
            view.copy_(values)


class Grower:
    """Switches single channels of a masked site on and off."""

    def __init__(self, views: list[Tensor], full: list[Tensor]) -> None:
        self.views, self.full = views, full

    def switch_on(self, channel: int) -> None:
        for view, values in zip(self.views, self.full, strict=True):
            view[:, channel] = values[:, channel]

    def switch_off(self, channel: int) -> None:
        for view in self.views:
            view[:, channel] = 0


@torch.no_grad()
def candidate_losses(
    model: Detector,
    site: Site,
    kept: Sequence[int],
    candidates: Sequence[int],
    batches: Iterable[tuple[Prefix, list[Target]]],
    criterion: Criterion,
) -> Tensor:
    """The detection loss with each candidate added to a site's kept set, one at a time.

    Args:
        model: the model so far; the site has its full width in it, sites that are done are slim.
        site: the site that grows.
        kept: its channels so far; may be empty.
        candidates: channels that are not in `kept`.
        batches: scoring images at the site, with their targets; gone through once.
        criterion: the loss; its weighted sum over all decoder layers counts, as in training without denoising.

    Returns:
        `[len(candidates)]` float64, the sum over the batches of loss times images, divided by the images.
    """
    images = 0
    losses = torch.zeros(len(candidates), dtype=torch.float64)
    with grown_site(model, site, kept) as grower:
        for prefix, targets in batches:
            images += prefix.images
            for index, candidate in enumerate(candidates):
                grower.switch_on(candidate)
                outputs = finish(model, prefix)
                losses[index] += criterion.total(criterion(outputs, targets)).double().cpu() * prefix.images
                grower.switch_off(candidate)
    return losses / images
