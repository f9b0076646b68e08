"""What is left of a channel whose filter is zero: the shift of its norm through the activation, a constant."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.pruning.bench import Activations
from greedyprune.pruning.kinds.readers import Constants
from greedyprune.sites import Change, HiddenSite, Site, installed


def constants(images: Activations, sites: Sequence[Site]) -> Constants:
    """What every channel of a reader's input is where nothing comes from its filter, which does not depend on images.

    One image goes through the model with the filters of all convolutional sites at zero; what is in the middle of a map
    counts, away from borders that are padded.

    Args:
        images: any.
        sites: of the model; those whose sort is not `conv` are left out.

    Returns:
        `[channels]` by the reader's module.
    """
    bench = images.bench
    convolutional = [site for site in sites if isinstance(site, HiddenSite) and site.sort == "conv"]
    filters = {part.name for site in convolutional for part in site.slices if _is_filter(bench.model, part.name)}
    found: dict[str, Tensor] = {}

    def keep(module: str) -> Any:
        def watch(_: nn.Module, args: tuple[Any, ...]) -> None:
            given = args[0].detach()[0]  # [C, h, w], or [N, C] of tokens
            middle = given[:, given.shape[1] // 2, given.shape[2] // 2] if given.dim() == 3 else given[len(given) // 2]
            found[module] = middle.clone()  # a sum may be written into it afterwards

        return watch

    batch, _ = next(images.batches.iterate())
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(installed(bench.model, Change({n: torch.zeros_like(bench.state[n]) for n in filters})))
        for module in {reader.module for site in convolutional for reader in site.readers}:
            layer = bench.model.get_submodule(module)
            stack.callback(layer.register_forward_pre_hook(keep(module)).remove)
        bench.family.answer(bench.model, bench.family.inputs(bench.model, batch[:1]), last_only=True)
    return found


def _is_filter(model: nn.Module, name: str) -> bool:
    """Whether a tensor is the weight of a convolution that mixes channels."""
    owner, _, attribute = name.rpartition(".")
    layer = model.get_submodule(owner)
    return attribute == "weight" and isinstance(layer, nn.Conv2d) and layer.weight.shape[1] > 1
