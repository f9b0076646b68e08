"""`taylor`: channels whose removal changes the detection loss most, to first order."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.pruning.kinds.channels import ChannelSite, by_group
from greedyprune.pruning.kinds.readers import input_channels
from greedyprune.pruning.labels import gradients_of
from greedyprune.pruning.scorers.given import Given
from greedyprune.sites import HiddenSite, Reader


def taylor_orders(given: Given, labelled: bool = True) -> dict[str, Tensor]:
    """By the squared derivative of each image's loss in a gate on the channel (Molchanov et al. 2019, equation 8).

    A gate's derivative is the sum over positions of what the channel carries times the loss's gradient there, in all
    that reads the channel.

    Args:
        given: the detector and its images.
        labelled: False: the dense answer is the truth; see `gradients_of`.
    """
    bench, sites = given.bench, given.channel_sites
    gradients_at = gradients_of(bench.family, bench.model, "taylor", labelled, given.seed)
    scores = {site.name: torch.zeros(site.full, dtype=torch.float64) for site in sites}
    seen: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    own: dict[str, list[Tensor | None]] = {site.name: [] for site in sites}

    def gate(name: str, channels: Tensor | None) -> Any:
        def watch(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            seen[name].append(args[0].detach().requires_grad_())
            own[name].append(channels)
            # The gradient goes on through what was read, to the sites before this one.
            return (args[0] + (seen[name][-1] - seen[name][-1].detach()), *args[1:])

        return watch

    with ExitStack() as stack:

        def begin(*_: object) -> None:  # a pass may be begun again in the middle, see `Missing`
            for name in seen:
                seen[name].clear()
                own[name].clear()

        stack.callback(bench.model.register_forward_pre_hook(begin).remove)
        for site in sites:
            for module in _readers(site):
                layer = bench.model.get_submodule(module)
                stack.callback(layer.register_forward_pre_hook(gate(site.name, _channels(site, layer, module))).remove)
        for answer, targets in given.images.answers(graph=True):
            probes = [probe for site in sites for probe in seen[site.name]]
            for found in gradients_at(answer, targets, probes):
                gradients = iter(found)
                for site in sites:
                    gates: Tensor | float = 0.0
                    for probe, channels in zip(seen[site.name], own[site.name], strict=True):
                        gates = gates + _by_channel(site, probe.detach() * next(gradients), channels)
                    if isinstance(gates, Tensor):
                        scores[site.name] += gates.double().square().sum(0).cpu()
            for name in seen:
                seen[name].clear()
                own[name].clear()
    return {site.name: by_group(site, scores[site.name].sort(descending=True, stable=True).indices) for site in sites}


def _readers(site: Any) -> list[str]:
    return [part.name.removesuffix(".weight") for part in site.slices if part.output]


def _channels(site: ChannelSite, layer: nn.Module, module: str) -> Tensor | None:
    """`[units, n]` the channels of a reader's input that are the site's; None: they are its channels in order."""
    if not isinstance(site, HiddenSite):
        return None
    weight = layer.get_parameter("weight")
    columns = site.columns(Reader(module), weight.shape[1])
    return input_channels(columns, weight.shape[1], layer.groups if isinstance(layer, nn.Conv2d) else 1)


def _by_channel(site: ChannelSite, product: Tensor, channels: Tensor | None) -> Tensor:
    """`[B, N, C]` of tokens or a map `[B, C, h, w]`, summed over its positions: `[B, site.full]`.

    What belongs to a unit of several channels counts for each of them alike.
    """
    summed = product.sum((2, 3)) if product.dim() == 4 else product.flatten(1, -2).sum(1)
    if channels is None:
        return summed
    return (summed[:, channels].sum(-1) / site.unit).repeat_interleave(site.unit, dim=1)
