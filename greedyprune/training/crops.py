"""A backbone's first lesson: to name the objects of a data set, cut out one by one.

A detector of the DETR family learns its features slowly from sparse queries. ResNets come with ImageNet's weights; a
backbone without such weights gets the same head start here, from the training images themselves, in minutes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.data.coco import CocoDetection
from greedyprune.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from greedyprune.errors import UserError
from greedyprune.evaluation.predict import autocast
from greedyprune.models.backbone import Backbone
from greedyprune.models.batch import ImageBatch
from greedyprune.ranges import Amount, Batch, Count, Pixels, Seed, check_ranges


@dataclass(frozen=True)
class LessonOptions:
    """How a backbone is taught.

    Attributes:
        steps: optimizer steps.
        batch_size: crops in a step.
        lr: AdamW's highest learning rate; it follows half a cosine to 0 after a short rise.
        weight_decay: AdamW's decoupled weight decay.
        crop: side of the crops, in pixels.
        amp: none, bf16 or fp16.
        seed: of crops, order and weights.
    """

    steps: Count = 2500
    batch_size: Batch = 128
    lr: Amount = 2e-3
    weight_decay: Amount = 1e-2
    crop: Pixels = 64
    amp: str = "none"
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(self, lambda name: f"--{name}")


def cut_crops(
    dataset: CocoDetection, side: int, progress: Callable[[Iterable[int]], Iterable[int]] | None = None
) -> tuple[Tensor, Tensor]:
    """Every object of a data set in a square of its own.

    Objects that fit stay at their size, a little off the middle; larger ones are scaled down to 60 to 95 % of the
    square.

    Args:
        dataset: images without normalisation: its transform only passes on image and target in pixels.
        side: of the squares, in pixels.
        progress: wraps the indices.

    Returns:
        uint8 `[N, 3, side, side]` and labels int64 `[N]`.

    Raises:
        UserError: there is no object.
    """
    crops, labels = [], []
    indices: Iterable[int] = range(len(dataset))
    for index in progress(indices) if progress else indices:
        image, target = dataset[index]
        pixels = image.as_subclass(Tensor)
        for box, label in zip(target["boxes"].as_subclass(Tensor).tolist(), target["labels"].tolist(), strict=True):
            longest = max(box[2] - box[0], box[3] - box[1])
            fit = side * (0.6 + 0.35 * float(torch.rand(())))
            window = side if longest < fit else side * longest / fit
            slack = max(0.0, window - longest) / 3
            shift = (torch.rand(2) * 2 - 1) * slack
            centre = torch.tensor([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]) + shift
            crops.append(_window(pixels, centre, window, side))
            labels.append(label)
    if not crops:
        raise UserError(f"no image in {dataset.folder} has an object to learn from; give other data as --coco_path")
    return torch.stack(crops), torch.tensor(labels)


def _window(pixels: Tensor, centre: Tensor, window: float, side: int) -> Tensor:
    """A square `[3, side, side]` of `window` pixels around a point, mirrored nowhere: outside is grey."""
    height, width = pixels.shape[-2:]
    steps = (torch.arange(side) + 0.5) / side * window - window / 2
    x, y = (centre[0] + steps) / width * 2 - 1, (centre[1] + steps) / height * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]  # [1, side, side, 2]
    sampled = F.grid_sample(pixels[None].float() - 128, grid, align_corners=False)
    return (sampled[0] + 128).round().clamp(0, 255).to(torch.uint8)


def teach(
    backbone: Backbone,
    crops: Tensor,
    labels: Tensor,
    classes: int,
    options: LessonOptions,
    report: Callable[[int, float, float], Any],
) -> float:
    """Train a backbone to name crops.

    Args:
        backbone: trained in place; frozen norms and stages stay so.
        crops: uint8 `[N, 3, s, s]`.
        labels: int64 `[N]`.
        classes: number of labels.
        options: how.
        report: called every 100 steps with the step, and mean loss and accuracy since the last call.

    Returns:
        Accuracy over the last 100 steps.
    """
    device = next(backbone.parameters()).device
    torch.manual_seed(options.seed)
    head = nn.Linear(backbone.channels, classes).to(device)
    backbone.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = [p for p in [*backbone.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.steps, pct_start=0.1)
    mean = 255 * torch.tensor(IMAGENET_MEAN, device=device)[:, None, None]
    std = 255 * torch.tensor(IMAGENET_STD, device=device)[:, None, None]
    losses, right, accuracy = torch.zeros((), device=device), torch.zeros((), device=device), 0.0
    for step in range(1, options.steps + 1):
        chosen = torch.randint(len(crops), (options.batch_size,))
        batch, wanted = _turned(crops[chosen]).to(device), labels[chosen].to(device)
        pixels = ((batch.float() - mean) / std).contiguous(memory_format=torch.channels_last)
        with autocast(device, options.amp):
            features = backbone(ImageBatch(pixels, None))[-1]
            logits = head(features.mean((-2, -1)))
        loss = F.cross_entropy(logits.float(), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses += loss.detach()
        right += (logits.argmax(-1) == wanted).float().mean()
        if step % 100 == 0 or step == options.steps:
            count = (step - 1) % 100 + 1
            accuracy = float(right) / count
            report(step, float(losses) / count, accuracy)
            losses.zero_()
            right.zero_()
    return accuracy


def _turned(crops: Tensor) -> Tensor:
    """The batch flipped, transposed and its colour channels shuffled, each at random, the same for every fourth."""
    parts = []
    for part in crops.chunk(4):
        across, down, swap = (torch.rand(3) < 0.5).tolist()
        part = part[:, torch.randperm(3)]
        part = part.flip(-1) if across else part
        part = part.flip(-2) if down else part
        parts.append(part.transpose(-1, -2) if swap else part)
    return torch.cat(parts)
