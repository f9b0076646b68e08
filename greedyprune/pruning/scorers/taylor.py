"""`taylor`: channels whose removal changes the detection loss most, to first order."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.pruning.kinds.channels import by_group
from greedyprune.pruning.labels import gradients_of
from greedyprune.pruning.scorers.given import Given


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

    def gate(name: str) -> Any:
        def watch(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            seen[name].append(args[0].detach().requires_grad_())
            # The gradient goes on through what was read, to the sites before this one.
            return (args[0] + (seen[name][-1] - seen[name][-1].detach()), *args[1:])

        return watch

    with ExitStack() as stack:

        def begin(*_: object) -> None:  # a pass may be begun again in the middle, see `Missing`
            for probes in seen.values():
                probes.clear()

        stack.callback(bench.model.register_forward_pre_hook(begin).remove)
        for site in sites:
            for module in _readers(site):
                layer = bench.model.get_submodule(module)
                stack.callback(layer.register_forward_pre_hook(gate(site.name)).remove)
        for answer, targets in given.images.answers(graph=True):
            probes = [probe for site in sites for probe in seen[site.name]]
            for found in gradients_at(answer, targets, probes):
                gradients = iter(found)
                for site in sites:
                    gates = [_by_channel(probe.detach() * next(gradients)) for probe in seen[site.name]]
                    if gates:
                        scores[site.name] += sum(gates[1:], gates[0]).double().square().sum(0).cpu()
            for each in seen.values():
                each.clear()
    return {site.name: by_group(site, scores[site.name].sort(descending=True, stable=True).indices) for site in sites}


def _readers(site: Any) -> list[str]:
    return [part.name.removesuffix(".weight") for part in site.slices if part.output]


def _by_channel(product: Tensor) -> Tensor:
    """`[B, N, channels]` of tokens or a map `[B, channels, h, w]`, summed over its positions: `[B, channels]`."""
    return product.sum((2, 3)) if product.dim() == 4 else product.flatten(1, -2).sum(1)
