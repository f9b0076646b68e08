"""`sensitivity`, `sensitivity_weight`: filters whose weights change the loss least leave.

The gradient is that of the loss of one batch, or without labels what `gradients_of` says. Its size is averaged over the
batches, so that what pulls one way in one and another way in the next counts. A unit's score is the mean over the
weights that write it, of all its tensors.
"""

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from greedyprune.pruning.kinds.channels import ChannelSite
from greedyprune.pruning.labels import gradients_of
from greedyprune.pruning.scorers.filters import ordered, tensor_of_units
from greedyprune.pruning.scorers.given import Given

Size = Callable[[Tensor, Tensor], Tensor]  # from a weight and its gradient to what counts, of the same shape


def sensitivity_orders(given: Given, labelled: bool = True) -> dict[str, Tensor]:
    """By the mean |gradient|: how much the loss changes with a change of the weights."""
    return _orders(given, "sensitivity", labelled, lambda weight, gradient: gradient.abs())


def sensitivity_weight_orders(given: Given, labelled: bool = True) -> dict[str, Tensor]:
    """By the mean |weight x gradient|: how much it changes, to first order, with the weights' removal.

    For single weights this is the saliency of Mozer and Smolensky (1989) and of Lee et al. (2019).
    """
    return _orders(given, "sensitivity_weight", labelled, lambda weight, gradient: (weight * gradient).abs())


def _orders(given: Given, name: str, labelled: bool, size: Size) -> dict[str, Tensor]:
    bench, sites = given.bench, given.channel_sites
    gradients_at = gradients_of(bench.family, bench.model, name, labelled, given.seed)
    parameters = dict(bench.model.named_parameters(remove_duplicate=False))
    names = sorted({part.name for site in sites for part in site.slices if _writes(part.roles, part.name, parameters)})
    weights = [parameters[each] for each in names]
    found = {each: torch.zeros_like(parameters[each], dtype=torch.float64) for each in names}
    try:
        for weight in weights:
            weight.requires_grad_()
        for answer, targets in given.images.answers(graph=True):
            for gradients in gradients_at(answer, targets, weights):
                for each, weight, gradient in zip(names, weights, gradients, strict=True):
                    found[each] += size(weight.detach(), gradient).double()
    finally:
        bench.model.requires_grad_(False)
    return {site.name: ordered(site, _mean(site, found)) for site in sites}


def _writes(roles: tuple[str, ...], name: str, known: Collection[str]) -> bool:
    return name in known and roles not in (("output",), ("sampling",), ("statistic",))


def _mean(site: ChannelSite, found: dict[str, Tensor]) -> Tensor:
    """`[units]` means of what was found for the weights that write each."""
    parts = [part for part in site.slices if part.name in found and not part.output]
    rows = [tensor_of_units(site, part, found[part.name].cpu()) for part in parts]
    return torch.cat(rows, 1).mean(1)
