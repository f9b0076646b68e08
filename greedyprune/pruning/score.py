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
        kept: channels that are on; may be none, and any number in each group.
    """
    state = model.state_dict()
    parts = [part for part in site.slices if not part.output]
    views = [site.by_unit(part, state[part.name]) for part in parts]  # [blocks, units, rows of a unit, ...]
    full = [view.clone() for view in views]
    for view in views:
        view[:, site.pruned(kept)] = 0
    try:
        yield Grower(site, views, full)
    finally:
        for view, values in zip(views, full, strict=True):
            view.copy_(values)


class Grower:
    """Switches single units of a masked site on and off; a unit goes by any of its channels."""

    def __init__(self, site: Site, views: list[Tensor], full: list[Tensor]) -> None:
        self.site, self.views, self.full = site, views, full

    def switch_on(self, channel: int) -> None:
        unit = channel // self.site.unit
        for view, values in zip(self.views, self.full, strict=True):
            view[:, unit] = values[:, unit]

    def switch_off(self, channel: int) -> None:
        for view in self.views:
            view[:, channel // self.site.unit] = 0


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
        candidates: units that are not in `kept`, by their first channels.
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
