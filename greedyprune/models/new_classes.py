"""A detector for other classes: what depends on them is made anew, everything else is kept."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from greedyprune.classes import Classes
from greedyprune.models.detector import Detector


@torch.no_grad()
def with_classes(model: Detector, classes: Classes, kept: Mapping[int, int]) -> Detector:
    """The detector with the heads and label embeddings of other classes.

    Their weights are random, as in a new model (PyTorch's generator draws them), but for the rows of classes that are
    kept, and for what is of no class: the row for "unknown", which is what DAB-DETR's queries start from, and the row
    of a second stage that says whether there is an object.

    Args:
        model: the detector; it is not changed.
        classes: the other classes, with ids and names.
        kept: labels of `classes` -> labels of `model` that they start from.

    Returns:
        A new detector with the same widths on the same device, in eval mode.
    """
    info = replace(model.info, class_names=classes.names, category_ids=classes.ids)
    made = type(model)(replace(model.options, num_classes=classes.count), model.widths, info)
    anew = {id(parameter) for part in _class_parts(made) for parameter in part.parameters()}
    old = model.state_dict(keep_vars=True)
    for name, tensor in made.state_dict(keep_vars=True).items():
        if id(tensor) not in anew:
            tensor.copy_(old[name])
    for head, before in zip(made.class_heads, model.class_heads, strict=True):
        _keep_rows(head, before, kept)
    if made.proposal_head is not None and model.proposal_head is not None:
        _keep_rows(made.proposal_head, model.proposal_head, {0: 0})
    if made.label_enc is not None and model.label_enc is not None:
        _keep_rows(made.label_enc, model.label_enc, {**kept, classes.count: model.options.num_classes})
    return made.to(next(model.parameters()).device).eval()


def _class_parts(model: Detector) -> list[nn.Module]:
    """The modules that have a row for every class."""
    parts = [*model.class_heads, model.proposal_head, model.label_enc]
    return [part for part in parts if part is not None]


def _keep_rows(part: nn.Module, before: nn.Module, kept: Mapping[int, int]) -> None:
    """Copy rows of every parameter: new row -> old row."""
    for ours, theirs in zip(part.parameters(), before.parameters(), strict=True):
        for row, old in kept.items():
            ours[row] = theirs[old]
