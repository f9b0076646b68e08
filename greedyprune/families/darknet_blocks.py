"""Runs of convolutions in a Darknet detector that can leave: what they read has the shape of what they give."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from greedyprune.models.darknet import Darknet
from greedyprune.models.darknet.cfg import Cfg, Convolutional, Route
from greedyprune.models.darknet.layers import Route as Passed
from greedyprune.sites import Change
from greedyprune.sites.change import Attribute, place_of


def removable_blocks(model: Darknet) -> dict[str, range]:
    """The layers of every block by its label, front to back; blocks are as short as can be, and do not overlap."""
    return {f"layers {block[0]} to {block[-1]}": block for block in _blocks(model.cfg.with_filters(model.filters))}


def without_blocks(model: Darknet, labels: Collection[str]) -> Change:
    """A detector with routes to the layer before in the place of some blocks' convolutions, as its cfg then says."""
    known = removable_blocks(model)
    gone = [number for label in labels for number in known[label]]
    layers = (Route((number - 1,)) if number in gone else layer for number, layer in enumerate(model.cfg.layers))
    settings: Mapping[Attribute, Any] = {place_of(f"layers.{number}"): Passed() for number in gone}
    return Change(settings={**settings, ("", "cfg"): replace(model.cfg, layers=tuple(layers))})


def _blocks(cfg: Cfg) -> list[range]:
    """Found from the end, so that a bottleneck goes with the convolution that widens it again."""
    channels, found = cfg.channels(), list[range]()
    read = {source for number in range(len(cfg.layers)) for source in cfg.reads(number) if source != number - 1}
    last = len(cfg.layers) - 2  # the last layer makes the answer, whatever its shape
    while last > 0:
        first = last
        while first > 0 and _within(cfg, first) and channels[first - 1] != channels[last] and first - 1 not in read:
            first -= 1
        if first > 0 and _within(cfg, first) and channels[first - 1] == channels[last]:
            found.append(range(first, last + 1))
            last = first
        last -= 1
    return found[::-1]


def _within(cfg: Cfg, number: int) -> bool:
    layer = cfg.layers[number]
    return isinstance(layer, Convolutional) and layer.stride == 1
