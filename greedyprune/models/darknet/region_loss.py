"""The loss of a region layer, as YOLOv2 was trained with (Darknet's region_layer.c; marvis/pytorch-yolo2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from greedyprune.models.darknet.cfg import Region

WARM_UP = 12800  # images until which all boxes are also drawn to the middle of their cells, and to their anchors
PARTS = ("x", "y", "w", "h", "conf", "cls")


@dataclass(frozen=True)
class Truth:
    """The objects of a batch that have a cell and an anchor of their own; M of them.

    Attributes:
        place: int64 `[M]`, of image, anchor, row and column in the flat `[B, A, h, w]`.
        boxes: `[M, 4]` cxcywh in cells.
        labels: int64 `[M]`.
    """

    place: Tensor
    boxes: Tensor
    labels: Tensor


def region_losses(
    raw: Tensor, targets: Sequence[Mapping[str, Tensor]], anchors: Tensor, region: Region, warming: bool
) -> dict[str, Tensor]:
    """The parts of the loss, each summed over images, anchors and cells; their sum is the loss.

    Every object is answered by one prediction: of the cell of its centre, and of the anchor whose shape overlaps its
    own most. Squared errors count half.

    Args:
        raw: `[B, A, 5 + C, h, w]`, see `RegionAnswer`.
        targets: B dicts with `labels` [n] and `boxes` [n, 4] (cxcywh in 0..1).
        anchors: `[A, 2]` width and height in cells.
        region: the weights.
        warming: boxes of no object are drawn to the middle of their cells and to their anchors; see `WARM_UP`.

    Returns:
        `x`, `y`, `w`, `h`, `conf` and `cls`, scalars.
    """
    batch, count, _, height, width = raw.shape
    anchors = anchors.to(raw)
    x, y = raw[:, :, 0].sigmoid(), raw[:, :, 1].sigmoid()  # [B, A, h, w], as all that follow
    w, h, conf = raw[:, :, 2], raw[:, :, 3], raw[:, :, 4].sigmoid()
    with torch.no_grad():
        columns, rows = (torch.arange(side, device=raw.device) for side in (width, height))
        predicted = torch.stack(
            (
                x + columns,
                y + rows[:, None],
                w.exp() * anchors[:, 0, None, None],
                h.exp() * anchors[:, 1, None, None],
            ),
            -1,
        )  # [B, A, h, w, 4] cxcywh in cells
        truth, silent = _assigned(predicted, targets, anchors, region.thresh)
        place, boxes = truth.place, truth.boxes
        middle = torch.full_like(x, 0.5)
        aims = {"x": middle, "y": middle.clone(), "w": torch.zeros_like(w), "h": torch.zeros_like(h)}
        anchor = anchors[place // (height * width) % count]
        aims["x"].view(-1)[place] = boxes[:, 0] - boxes[:, 0].floor().clamp(max=width - 1)
        aims["y"].view(-1)[place] = boxes[:, 1] - boxes[:, 1].floor().clamp(max=height - 1)
        aims["w"].view(-1)[place], aims["h"].view(-1)[place] = (boxes[:, 2:] / anchor).log().unbind(1)
        weight = torch.full_like(x, float(warming))
        weight.view(-1)[place] = 1.0
        weight *= region.coord_scale
        found = torch.zeros_like(conf)
        overlap = _iou(predicted.view(-1, 4)[place], boxes) if region.rescore else 1.0
        found.view(-1)[place] = overlap
        certain = torch.where(silent, 0.0, region.noobject_scale).to(conf)
        certain.view(-1)[place] = region.object_scale
    losses = {
        name: (weight * (own - aims[name]).square()).sum() / 2 for name, own in (("x", x), ("y", y), ("w", w), ("h", h))
    }
    losses["conf"] = (certain * (conf - found).square()).sum() / 2
    logits = raw[:, :, 5:].permute(0, 1, 3, 4, 2).reshape(batch * count * height * width, -1)
    losses["cls"] = region.class_scale * F.cross_entropy(logits[place], truth.labels, reduction="sum")
    return losses


def _assigned(
    predicted: Tensor, targets: Sequence[Mapping[str, Tensor]], anchors: Tensor, thresh: float
) -> tuple[Truth, Tensor]:
    """The objects' places, and where `[B, A, h, w]` a prediction overlaps an object of its image beyond `thresh`.

    Of objects that share cell and anchor the last one has the place.
    """
    _, count, height, width, _ = predicted.shape
    silent = torch.zeros(predicted.shape[:-1], dtype=torch.bool, device=predicted.device)
    scale = predicted.new_tensor([width, height, width, height])
    places, boxes, labels = [], [], []
    for image, target in enumerate(targets):
        own = target["boxes"].to(predicted) * scale  # [n, 4]
        if not len(own):
            continue
        silent[image] = (_iou(predicted[image, ..., None, :], own) > thresh).any(-1)
        shapes = _iou(F.pad(own[:, None, 2:], (2, 0)), F.pad(anchors, (2, 0)))  # [n, A]
        column = own[:, 0].long().clamp(max=width - 1)
        row = own[:, 1].long().clamp(max=height - 1)
        places.append(((image * count + shapes.argmax(1)) * height + row) * width + column)
        boxes.append(own)
        labels.append(target["labels"].to(predicted.device))
    if not places:
        none = torch.zeros(0, dtype=torch.int64, device=predicted.device)
        return Truth(none, predicted.new_zeros(0, 4), none), silent
    place = torch.cat(places)
    order = torch.arange(len(place), device=place.device)
    last = torch.full((silent.numel(),), -1, device=place.device).scatter_reduce_(0, place, order, "amax")
    own_place = last[place] == order
    return Truth(place[own_place], torch.cat(boxes)[own_place], torch.cat(labels)[own_place]), silent


def _iou(one: Tensor, other: Tensor) -> Tensor:
    """IoU `[...]` of boxes `[..., 4]` cxcywh that broadcast against each other."""
    low = torch.maximum(one[..., :2] - one[..., 2:] / 2, other[..., :2] - other[..., 2:] / 2)
    high = torch.minimum(one[..., :2] + one[..., 2:] / 2, other[..., :2] + other[..., 2:] / 2)
    both = (high - low).clamp(min=0).prod(-1)
    return both / (one[..., 2:].prod(-1) + other[..., 2:].prod(-1) - both)
