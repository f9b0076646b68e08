"""From the last map of a Darknet detector to its answer, and from that to detections."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from greedyprune.answer import Answer, ObjectnessSoftmax
from greedyprune.boxes import cxcywh_to_xyxy

_LINK = ObjectnessSoftmax()
_LARGEST = 20.0  # of log(size / anchor): beyond it boxes are infinite, and say no more


@dataclass(frozen=True)
class RegionAnswer(Answer):
    """Answer of a region layer; a query is an anchor in a cell.

    Attributes:
        raw: `[B, A, 5 + C, h, w]` of A anchors: x, y, width, height, objectness and C classes, as the network gives
            them; the loss reads them.
    """

    raw: Tensor = field(kw_only=True)


def decode(output: Tensor, anchors: Tensor) -> RegionAnswer:
    """The answer of the last map (Redmon and Farhadi 2017, section 2, "Direct location prediction").

    Args:
        output: `[B, A (5 + C), h, w]`.
        anchors: `[A, 2]` width and height in cells.

    Returns:
        Answers `[B, h w A, ...]` in the order row, column, anchor; logits are the objectness and C classes.
    """
    batch, _, height, width = output.shape
    output = output.to(torch.promote_types(output.dtype, torch.float32))
    raw = output.reshape(batch, len(anchors), -1, height, width)
    cells = raw.permute(0, 3, 4, 1, 2)  # [B, h, w, A, 5 + C]
    y, x = torch.meshgrid(
        torch.arange(height, device=output.device), torch.arange(width, device=output.device), indexing="ij"
    )
    corner = torch.stack((x, y), -1)[:, :, None]  # [h, w, 1, 2]
    size = output.new_tensor([width, height])
    centre = (cells[..., :2].sigmoid() + corner) / size
    extent = anchors.to(output) * cells[..., 2:4].clamp(max=_LARGEST).exp() / size
    boxes = torch.cat((centre, extent), -1).flatten(1, 3)
    return RegionAnswer(cells[..., 4:].flatten(1, 3), boxes, _LINK, raw=raw)


@torch.no_grad()
def suppressed(
    answer: Answer, sizes: Tensor, top_k: int, score: float, overlap: float, per_class: bool
) -> list[dict[str, Tensor]]:
    """Detections of each image, without boxes that overlap a better one.

    As published, boxes go from high to low objectness, whatever their class, and every class of a box that is left is
    a detection where its score passes.

    Args:
        answer: of a batch.
        sizes: `[B, 2]` original height and width in pixels.
        top_k: detections of an image, at most.
        score: objectness times class, which must be higher.
        overlap: IoU of the boxes that leave.
        per_class: only boxes of the same class leave each other out, from high to low score.

    Returns:
        B dicts with `scores` [k] from high to low, `labels` int64 [k], `boxes` [k, 4] xyxy in pixels.
    """
    found = []
    chances, boxes = answer.link.chances(answer.logits.float()), cxcywh_to_xyxy(answer.boxes.float())
    objectness = answer.logits[..., 0].float()
    for chance, corners, certain, size in zip(chances, boxes, objectness, sizes.to(boxes), strict=True):
        if per_class:
            box, label = torch.nonzero(chance > score).unbind(1)
            kept = batched_nms(corners[box], chance[box, label], label, overlap)
            box, label = box[kept], label[kept]
        else:
            passing = torch.nonzero(chance.amax(1) > score).squeeze(1)
            left = passing[nms(corners[passing], certain[passing], overlap)]
            row, label = torch.nonzero(chance[left] > score).unbind(1)
            box = left[row]
        scores, order = chance[box, label].sort(descending=True, stable=True)
        order = order[:top_k]
        pixels = corners[box[order]] * size.flip(0).repeat(2)  # (w, h, w, h)
        found.append({"scores": scores[:top_k], "labels": label[order], "boxes": pixels})
    return found
