"""The detection loss: focal classification, L1 and generalized IoU, for matched and for denoising queries."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.answer import Answer
from greedyprune.boxes import cxcywh_to_xyxy, generalized_iou
from greedyprune.models.answer import DenoisingAnswer, DetrAnswer
from greedyprune.models.matcher import HungarianMatcher, Match, Target


def focal_loss(logits: Tensor, onehot: Tensor, alpha: float, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017, equation 5) of every element, same shape as `logits`."""
    prob = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, onehot, reduction="none")
    agreement = prob * onehot + (1 - prob) * (1 - onehot)
    return (alpha * onehot + (1 - alpha) * (1 - onehot)) * (1 - agreement) ** gamma * cross_entropy


class Criterion(nn.Module):
    """Losses over all decoder layers.

    Args:
        num_classes: number of labels.
        matcher: None for the published costs (2, 5, 2).
        loss_ce: weight of the focal loss.
        loss_bbox: weight of the L1 loss.
        loss_giou: weight of the generalized IoU loss.
        alpha: focal loss balance.
    """

    def __init__(
        self,
        num_classes: int,
        matcher: HungarianMatcher | None = None,
        loss_ce: float = 1.0,
        loss_bbox: float = 5.0,
        loss_giou: float = 2.0,
        alpha: float = 0.25,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher or HungarianMatcher()
        self.weights = {"loss_ce": loss_ce, "loss_bbox": loss_bbox, "loss_giou": loss_giou}
        self.alpha = alpha

    def forward(
        self, answer: DetrAnswer, targets: list[Target], num_boxes: Tensor | float | None = None
    ) -> dict[str, Tensor]:
        """Every loss of every decoder layer.

        Args:
            answer: of the detector.
            targets: B dicts with `labels` int64 [n] and `boxes` [n, 4] (cxcywh in 0..1).
            num_boxes: what the sums are divided by; None: the targets of this batch, at least 1. Data-parallel
                training passes the targets of the global batch divided by the number of processes.

        Returns:
            Scalars by their published names: `loss_ce`, `loss_bbox`, `loss_giou` of the last layer, `..._0`,
            `..._1` of the ones before it, `..._enc` of a first stage's proposals, `tgt_...` of the denoising queries;
            and, to look at only, `class_error` (percent), `loss_xy`, `loss_hw` (parts of `loss_bbox`) and
            `cardinality_error` (boxes an image).
        """
        layers = (*answer.earlier, answer)
        logits = torch.stack([layer.logits for layer in layers]).float()  # [L, B, Q, C]
        boxes = torch.stack([layer.boxes for layer in layers]).float()  # [L, B, Q, 4]
        if num_boxes is None:
            num_boxes = torch.tensor(max(sum(len(target["labels"]) for target in targets), 1), device=logits.device)

        layer_losses, match = self._matched_losses(logits, boxes, targets, num_boxes)
        losses = _by_layer(layer_losses, "")
        labels = torch.cat([target["labels"] for target in targets])
        last = match.layer == len(layers) - 1
        predicted = logits[-1, match.image[last], match.query[last]].argmax(-1)
        losses["class_error"] = _percent_wrong(predicted, labels[match.target[last]])
        if answer.proposals is not None:
            losses |= self._proposal_losses(answer.proposals, targets, num_boxes)
        if answer.denoising is not None:
            losses |= self._denoising_losses(answer.denoising, num_boxes)
        return losses

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum that is minimised."""
        terms = [weight * losses[name] for name, weight in self.weight_dict(losses).items()]
        return torch.stack(terms).sum()

    def weight_dict(self, losses: dict[str, Tensor]) -> dict[str, float]:
        """The weight of every loss in `losses` that counts."""
        weights = {}
        for name in losses:
            base = name.removeprefix("tgt_").removesuffix("_enc").rstrip("0123456789").rstrip("_")
            if base in self.weights:
                weights[name] = self.weights[base]
        return weights

    def _matched_losses(
        self, logits: Tensor, boxes: Tensor, targets: list[Target], num_boxes: Tensor | float
    ) -> tuple[dict[str, Tensor], Match]:
        """Losses `[L]` of logits `[L, B, Q, C]` and boxes `[L, B, Q, 4]`, each layer matched to the targets alone."""
        counts = torch.tensor([len(target["labels"]) for target in targets], device=logits.device)
        labels = torch.cat([target["labels"] for target in targets])
        target_boxes = torch.cat([target["boxes"] for target in targets]).float()
        match = self.matcher(logits, boxes, targets)
        onehot = torch.zeros_like(logits)
        onehot[match.layer, match.image, match.query, labels[match.target]] = 1
        losses = {"loss_ce": focal_loss(logits, onehot, self.alpha).sum((1, 2, 3)) / num_boxes}
        matched, wanted = boxes[match.layer, match.image, match.query], target_boxes[match.target]  # [M, 4]
        losses |= self._box_losses(matched, wanted, match.layer, len(logits), num_boxes)
        losses |= self._box_parts(matched, wanted, match.layer, len(logits), num_boxes)
        # The published count takes the last class for "no object"; kept so that logs can be compared.
        found = (logits.argmax(-1) != logits.shape[-1] - 1).sum(-1)  # [L, B]
        losses["cardinality_error"] = (found - counts).abs().float().mean(1)
        return losses, match

    def _proposal_losses(
        self, proposals: Answer, targets: list[Target], num_boxes: Tensor | float
    ) -> dict[str, Tensor]:
        """A first stage only says whether there is an object: as class 0 (Deformable DETR, appendix A.4)."""
        objects = [{**target, "labels": torch.zeros_like(target["labels"])} for target in targets]
        logits, boxes = proposals.logits.float()[None], proposals.boxes.float()[None]
        losses, _ = self._matched_losses(logits, boxes, objects, num_boxes)
        return {f"{name}_enc": value[0] for name, value in losses.items()}

    def _box_losses(
        self, boxes: Tensor, targets: Tensor, layer: Tensor, layers: int, num_boxes: Tensor | float
    ) -> dict[str, Tensor]:
        distance = (boxes - targets).abs().sum(-1)  # [M]
        overlap = generalized_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets))  # [M]
        return {
            "loss_bbox": _sum_by_layer(distance, layer, layers) / num_boxes,
            "loss_giou": _sum_by_layer(1 - overlap, layer, layers) / num_boxes,
        }

    @torch.no_grad()
    def _box_parts(
        self, boxes: Tensor, targets: Tensor, layer: Tensor, layers: int, num_boxes: Tensor | float
    ) -> dict[str, Tensor]:
        distance = (boxes - targets).abs()  # [M, 4]
        return {
            "loss_xy": _sum_by_layer(distance[:, :2].sum(-1), layer, layers) / num_boxes,
            "loss_hw": _sum_by_layer(distance[:, 2:].sum(-1), layer, layers) / num_boxes,
        }

    def _denoising_losses(self, denoising: DenoisingAnswer, num_boxes: Tensor | float) -> dict[str, Tensor]:
        queries = denoising.queries
        logits = denoising.logits[:, queries.image, queries.query].float()  # [L, K, C]
        boxes = denoising.boxes[:, queries.image, queries.query].float()  # [L, K, 4]
        layers, known = logits.shape[:2]
        onehot = F.one_hot(queries.labels, self.num_classes).to(logits.dtype).expand_as(logits)
        divisor = num_boxes * queries.groups
        losses = {"loss_ce": focal_loss(logits, onehot, self.alpha).sum((1, 2)) / divisor}
        layer = torch.arange(layers, device=logits.device).repeat_interleave(known)
        expanded = queries.boxes.repeat(layers, 1)
        losses |= self._box_losses(boxes.flatten(0, 1), expanded, layer, layers, divisor)
        losses["class_error"] = torch.stack([_percent_wrong(each.argmax(-1), queries.labels) for each in logits])
        return _by_layer(losses, "tgt_")


def _sum_by_layer(values: Tensor, layer: Tensor, layers: int) -> Tensor:
    """`[M]` values and the layer of each -> `[L]` sums."""
    return values.new_zeros(layers).index_add(0, layer, values)


def _by_layer(losses: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """`{name: [L]}` to the published names: `name` for the last layer, `name_0`... for those before it."""
    result = {}
    for name, values in losses.items():
        *earlier, last = values.unbind(0)
        result[f"{prefix}{name}"] = last
        result |= {f"{prefix}{name}_{i}": value for i, value in enumerate(earlier)}
    return result


def _percent_wrong(predicted: Tensor, labels: Tensor) -> Tensor:
    """100 minus the accuracy; 100 when there is nothing to predict, as published."""
    if not len(labels):
        return torch.full((), 100.0, device=predicted.device)
    return 100 - 100 * (predicted == labels).float().mean()
