"""Supervision of the encoder by a head of its own, which is there in training only.

A DETR trained from random weights learns features through sparse queries, which is slow. Letting every image token say
which object covers it and where its sides are (the one-to-many heads of Zong et al. 2023, "Co-DETR", in their simplest
form) teaches backbone and encoder directly. The head is thrown away afterwards; the detector is the same.
"""

import torch
from torch import Tensor, nn

from greedyprune.boxes import cxcywh_to_xyxy, generalized_iou
from greedyprune.models import Denoising, Detector, ImageBatch
from greedyprune.models.answer import DetrAnswer
from greedyprune.models.criterion import focal_loss
from greedyprune.models.matcher import Target


class WithEncoderHead(nn.Module):
    """A detector, and a head over the output of its encoder.

    Args:
        detector: the model that is trained.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.head = nn.Linear(detector.options.hidden_dim, detector.options.num_classes + 4)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.constant_(self.head.bias, -4.6)  # a foreground probability of 0.01, as for queries
        self._memory: list[Tensor] = []
        detector.transformer.encoder.register_forward_hook(lambda *hooked: self._memory.append(hooked[-1]))

    def forward(
        self, images: ImageBatch, targets: list[Target] | None, denoising: Denoising | None, known: list[Target]
    ) -> tuple[DetrAnswer, Tensor]:
        """The answer of the detector, and the loss of the head, a scalar.

        Args:
            images: a padded batch.
            targets: for denoising; None: without it.
            denoising: amount of noise.
            known: the targets that tokens are held against.
        """
        self._memory.clear()
        answer = self.detector(images, targets, denoising)
        found = self.head(self._memory.pop()).float()  # [B, M, C + 4]
        return answer, self._loss(found, images, known)

    def _loss(self, found: Tensor, images: ImageBatch, known: list[Target]) -> Tensor:
        """The mean over the levels of tokens."""
        losses, start = [], 0
        for stride in self.detector.strides:
            height, width = (-(-side // stride) for side in images.tensors.shape[-2:])
            losses.append(token_loss(found[:, start : start + height * width], images, known, stride))
            start += height * width
        return torch.stack(losses).mean()


def token_loss(answers: Tensor, images: ImageBatch, targets: list[Target], stride: int) -> Tensor:
    """Focal loss of all tokens, L1 and generalized IoU of those that an object covers.

    A token belongs to the smallest object whose box covers its cell's centre; an object smaller than a cell counts as
    large as one, so that it has a token, too.

    Args:
        answers: `[B, M, C + 4]`, class logits and, through a sigmoid, distances to left, top, right and bottom as
            shares of the image.
        images: the batch that the tokens are of.
        targets: B dicts with `labels` [n] and `boxes` [n, 4] (cxcywh in 0..1).
        stride: pixels between cells.

    Returns:
        A scalar, the mean over the covered tokens.
    """
    height, width = images.tensors.shape[-2:]
    rows, columns = -(-height // stride), -(-width // stride)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    cells = (torch.stack((x, y), -1).flatten(0, 1).to(answers) + 0.5) * stride  # [M, 2] pixels
    total = answers.new_zeros(())
    covered = 0
    classes = answers.shape[-1] - 4
    for i, (answer, target) in enumerate(zip(answers, targets, strict=True)):
        size = answer.new_tensor([width, height])
        if images.padding is not None:
            shown = ~images.padding[i]
            size = torch.stack((shown[0].sum(), shown[:, 0].sum())).to(answer)
        centres = cells / size  # [M, 2] in the image's own 0..1
        inside = (centres < 1).all(-1)
        onehot = torch.zeros_like(answer[:, :classes])
        if len(target["labels"]):
            boxes = target["boxes"].to(answer)
            reach = torch.maximum(boxes[:, 2:], stride / size) / 2  # [n, 2]
            hit = ((centres[:, None] - boxes[None, :, :2]).abs() <= reach).all(-1) & inside[:, None]  # [M, n]
            area = boxes[:, 2:].prod(-1).expand_as(hit).masked_fill(~hit, 2.0)
            smallest, owner = area.min(1)
            tokens = torch.nonzero(smallest < 2.0).squeeze(1)
            owner = owner[tokens]
            onehot[tokens, target["labels"][owner]] = 1
            distances = answer[tokens, classes:].sigmoid()
            found = torch.cat((centres[tokens] - distances[:, :2], centres[tokens] + distances[:, 2:]), 1)
            wanted = cxcywh_to_xyxy(boxes[owner])
            total = total + 2 * (found - wanted).abs().sum() + 2 * (1 - generalized_iou(found, wanted)).sum()
            covered += len(tokens)
        total = total + focal_loss(answer[:, :classes], onehot, 0.25)[inside].sum()
    return total / max(covered, 1)
