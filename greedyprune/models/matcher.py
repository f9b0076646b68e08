"""The assignment of predictions to targets: Hungarian matching with a focal class cost."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from greedyprune.boxes import cxcywh_to_xyxy, generalized_iou

Target = dict[str, Tensor]


class Match(NamedTuple):
    """Matched pairs over several decoder layers and images, as parallel index lists `[M]`.

    Attributes:
        layer: decoder layer of the prediction.
        image: image of the batch.
        query: index of the prediction.
        target: index of the target among all targets of the batch, image after image.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor


class HungarianMatcher:
    """Lowest total cost one-to-one matching (DETR, section 3.1; class cost of Deformable DETR, appendix A.4).

    Args:
        cost_class: weight of the focal class cost.
        cost_bbox: weight of the L1 distance of cxcywh boxes.
        cost_giou: weight of the negative generalized IoU.
        alpha: focal loss balance.
        gamma: focal loss exponent.
    """

    def __init__(
        self,
        cost_class: float = 2.0,
        cost_bbox: float = 5.0,
        cost_giou: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        self.cost_class, self.cost_bbox, self.cost_giou = cost_class, cost_bbox, cost_giou
        self.alpha, self.gamma = alpha, gamma

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, targets: list[Target]) -> Match:
        """Match every layer and image on its own.

        Args:
            logits: `[L, B, Q, C]`.
            boxes: `[L, B, Q, 4]` cxcywh.
            targets: B dicts with `labels` [n] and `boxes` [n, 4].
        """
        device = logits.device
        counts = [len(target["labels"]) for target in targets]
        if not sum(counts):
            empty = torch.zeros(0, dtype=torch.long, device=device)
            return Match(empty, empty, empty, empty)
        layers, images, widest = logits.shape[0], logits.shape[1], max(counts)
        labels = torch.zeros(images, widest, dtype=torch.long, device=device)
        target_boxes = torch.full((images, widest, 4), 0.5, device=device)
        for i, target in enumerate(targets):
            labels[i, : counts[i]] = target["labels"]
            target_boxes[i, : counts[i]] = target["boxes"]
        cost = self._cost(logits.float(), boxes.float(), labels, target_boxes).cpu().numpy()  # [L, B, Q, widest]

        offsets = np.cumsum([0, *counts[:-1]])
        pairs: list[np.ndarray] = []
        for layer in range(layers):
            for image, count in enumerate(counts):
                if not count:
                    continue
                query, target_index = linear_sum_assignment(cost[layer, image, :, :count])
                place = np.full_like(query, layer), np.full_like(query, image)
                pairs.append(np.stack((*place, query, target_index + offsets[image])))
        return Match(*torch.from_numpy(np.concatenate(pairs, axis=1)).to(device))

    def _cost(self, logits: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor) -> Tensor:
        index = labels[None, :, None, :].expand(*logits.shape[:3], -1)  # [L, B, Q, T]
        chosen = logits.gather(-1, index)
        prob = chosen.sigmoid()
        # The published matcher adds 1e-8 under the logarithm; it only matters where the sigmoid is 0 or 1.
        positive = self.alpha * (1 - prob) ** self.gamma * -(prob + 1e-8).log()
        negative = (1 - self.alpha) * prob**self.gamma * -(1 - prob + 1e-8).log()
        a, b = boxes[:, :, :, None], target_boxes[None, :, None]  # [L, B, Q, 1, 4], [1, B, 1, T, 4]
        distance = (a - b).abs().sum(-1)
        overlap = generalized_iou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b))
        cost = self.cost_class * (positive - negative) + self.cost_bbox * distance - self.cost_giou * overlap
        # A diverged model must not crash the matcher; the trainer stops on the loss, which is not finite then.
        return cost.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6)
