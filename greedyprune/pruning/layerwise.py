"""Mend a slim model part by part: each gives again what the dense one's part gives."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.models.batch import as_batch
from greedyprune.models.deploy import deployed
from greedyprune.models.detector import Detector
from greedyprune.models.layers import Layer
from greedyprune.pruning.fit import fit
from greedyprune.pruning.prefix import Place, Prefix, advance, asked_as
from greedyprune.pruning.shelf import Shelf

RATE = 2e-3  # of Adam, for half a layer
BLOCK_RATE = 1e-3  # for a block of the backbone
NOISE = 1e-10  # of the dense tokens' power: what rounding alone leaves, from which there is nothing to learn

Batch = Sequence[Tensor]


def mend_layers(
    dense: Detector,
    slim: Detector,
    theirs: Shelf[Prefix],
    own: Shelf[Prefix],
    steps: int,
    tell: Callable[[str], None],
) -> None:
    """Train half layer after half layer, in place: of what the mended ones before it give, it makes the dense tokens.

    Args:
        dense: the dense model.
        slim: one with the same layers, none of whose parameters takes gradients.
        theirs: batches of images before the dense model's first encoder layer; afterwards they are after its last one.
        own: the same before the slim model's, and after it.
        steps: of one batch each, for every half layer.
        tell: is told which one learns.
    """
    for place, end in _halves(dense):
        with torch.no_grad():
            theirs.replace(partial(advance, dense, place=place))
            own.replace(partial(advance, slim, place=place))
            if place == Place(True, 0):
                own.replace(asked_as, theirs)
            theirs.replace(partial(advance, dense, place=end))
        if _differs(advance(slim, own[0], end), theirs[0]):
            tell(f"mending {place}")
            pairs = zip(own.forever(), theirs.forever(), strict=True)
            losses = (_error(advance(slim, prefix, end), aim) for prefix, aim in pairs)
            fit(_half(slim, place), losses, steps, RATE)
        with torch.no_grad():
            own.replace(partial(advance, slim, place=end))


def _halves(model: Detector) -> Iterator[tuple[Place, Place]]:
    """Where each half of a layer starts and ends, front to back."""
    for decoder, layers in ((False, model.transformer.encoder.layers), (True, model.transformer.decoder.layers)):
        for layer in range(len(layers)):
            yield Place(decoder, layer), Place(decoder, layer, True)
            yield Place(decoder, layer, True), Place(decoder, layer + 1)


def _half(model: Detector, place: Place) -> list[nn.Parameter]:
    layers = model.transformer.decoder.layers if place.decoder else model.transformer.encoder.layers
    layer = layers[place.layer]
    assert isinstance(layer, Layer)
    return layer.half_parameters(place.ffn)


def _stream(prefix: Prefix) -> Tensor:
    """What the layers hand on `[n, dim]`, without padding."""
    if prefix.content is not None:
        return prefix.content.flatten(0, 1)
    return prefix.tokens.flatten(0, 1) if prefix.mask is None else prefix.tokens[prefix.mask.flatten(1)]


def _error(prefix: Prefix, aim: Prefix) -> Tensor:
    return F.mse_loss(_stream(prefix), _stream(aim))


def _differs(prefix: Prefix, aim: Prefix) -> bool:
    return bool(_error(prefix, aim) > NOISE * _stream(aim).square().mean())


def mend_blocks(dense: Detector, slim: Detector, images: Iterable[Batch], steps: int) -> None:
    """Train the blocks of a cut backbone, in place: each makes the dense block's output of the dense block's input.

    All of them learn at once, so that no feature map has to be kept.

    Args:
        dense: the dense model.
        slim: one with the same blocks, none of whose parameters takes gradients.
        images: endless batches of images.
        steps: of one batch each.
    """
    theirs, ours = dense.feature_extractor.blocks, slim.feature_extractor.blocks
    fast = deployed(dense).feature_extractor
    cut = [(fast.blocks[name], own) for name, own in ours.items() if _shapes(theirs[name]) != _shapes(own)]
    device = next(dense.parameters()).device
    seen: dict[nn.Module, tuple[tuple[Any, ...], Tensor]] = {}

    def watch(block: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen[block] = args, output

    def losses() -> Iterator[Tensor]:
        for batch in images:
            with torch.no_grad():
                fast.pyramid(as_batch(batch).to(device))
            yield torch.stack([F.mse_loss(own(*seen[block][0]), seen[block][1]) for block, own in cut]).sum()

    with ExitStack() as stack:
        for block, _ in cut:
            stack.callback(block.register_forward_hook(watch).remove)
        fit([parameter for _, own in cut for parameter in own.parameters()], losses(), steps, BLOCK_RATE)


def _shapes(module: nn.Module) -> list[torch.Size]:
    return [tensor.shape for tensor in module.state_dict().values()]
