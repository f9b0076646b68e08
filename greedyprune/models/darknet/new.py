"""New Darknet detectors: with random weights, from a backbone, or for other classes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from greedyprune.classes import Classes
from greedyprune.models.darknet.cfg import COORDINATES, Cfg
from greedyprune.models.darknet.network import Darknet
from greedyprune.models.darknet.options import DarknetInfo
from greedyprune.models.darknet.weights_file import read_weights


def new_darknet(cfg: Cfg, info: DarknetInfo, classes: Classes, backbone: Path | None = None) -> Darknet:
    """A detector with random weights, in eval mode; PyTorch's generator draws them.

    Args:
        cfg: its layers; the last one gets filters for the classes.
        info: what its numbers are computed by.
        classes: what its labels are.
        backbone: a `.weights` file of its first convolutions.

    Raises:
        UserError: the file is of other layers.
    """
    info = replace(info, class_names=classes.names, category_ids=classes.ids)
    model = Darknet(cfg.for_classes(classes.count), info)
    if backbone is not None:
        read_weights(model, backbone, backbone=True)
    return model.eval()


@torch.no_grad()
def with_classes(model: Darknet, classes: Classes, kept: Mapping[int, int]) -> Darknet:
    """A detector for other classes: their filters of the last convolution are random, everything else is kept.

    Args:
        model: the detector; it is not changed.
        classes: the other classes, with ids and names.
        kept: labels of `classes` -> labels of `model` whose filters they start from.

    Returns:
        A new detector with the same widths on the same device, in eval mode.
    """
    cfg, count = model.cfg.for_classes(classes.count), len(model.region.anchors)
    info = replace(model.info, class_names=classes.names, category_ids=classes.ids)
    made = Darknet(cfg, info, (*model.filters[:-1], cfg.filters[-1]))
    head = f"layers.{len(cfg.layers) - 1}."
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(head)}
    made.load_state_dict(state, strict=False)
    rows = {row: row for row in range(COORDINATES)}
    rows |= {COORDINATES + label: COORDINATES + before for label, before in kept.items()}
    ours, theirs = (_by_anchor(each, count) for each in (made, model))
    for own, other in zip(ours, theirs, strict=True):
        own[:, list(rows)] = other[:, list(rows.values())].to(own)
    return made.to(next(model.parameters()).device).eval()


def _by_anchor(model: Darknet, anchors: int) -> list[torch.Tensor]:
    """What the last convolution has for every filter, as `[anchors, 5 + classes, ...]`."""
    tensors = model.convolutions[-1].state_dict(keep_vars=True).values()
    return [tensor.view(anchors, -1, *tensor.shape[1:]) for tensor in tensors if tensor.dim()]
