"""Augmentation, resizing and normalising, as transforms of torchvision's v2.

They take an image `[3, h, w]` uint8 and a target whose `boxes` are tv_tensors.BoundingBoxes xyxy in pixels. All that is
random comes from PyTorch's global generator, so that whoever seeds it decides what an item becomes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from greedyprune.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
AUGMENTATIONS = ("detr", "flips", "none")

# DETR (Carion et al. 2020, section A.4) and its published code: pixels, for images whose short side becomes 800.
_DETR_SHORT_SIDE = 800
_SCALES = tuple(range(480, 801, 32))
_CROP_SCALES = (400, 500, 600)
_CROP_SIDES = (384, 600)
# Longest side before cropping, in short sides. DETR has no bound: an image of 1 x 20000 would take 43 GB.
_CROP_ASPECT = 10

Sample = tuple[Tensor, dict[str, Any]]


def eval_transform(short_side: int, long_side: int) -> nn.Module:
    """Resize and normalise, with nothing random.

    Args:
        short_side: pixels that the shorter side gets.
        long_side: pixels that the longer side gets at most; the shorter one has fewer then.
    """
    return v2.Compose([Resize((short_side,), long_side), Normalise()])


def train_transform(kind: str, short_side: int, long_side: int) -> nn.Module:
    """Augment, resize and normalise.

    Args:
        kind: `detr`: left and right flipped at random; then resized to one of several sizes, half of the time after
            resizing and cropping at random. `flips`: see `Flips`. `none`: as for evaluation.
        short_side: pixels of the shorter side; for `detr` the largest of them.
        long_side: pixels that the longer side gets at most.

    Raises:
        UserError: unknown kind.
    """
    if kind not in AUGMENTATIONS:
        raise UserError(f"augmentation {kind!r} is unknown; choose one of {', '.join(AUGMENTATIONS)}")
    if kind == "none":
        return eval_transform(short_side, long_side)
    if kind == "flips":
        return v2.Compose([Flips(), Resize((short_side,), long_side), Normalise()])

    def scaled(sides: Sequence[int]) -> tuple[int, ...]:
        return tuple(max(1, round(side * short_side / _DETR_SHORT_SIDE)) for side in sides)

    resize = Resize(scaled(_SCALES), long_side)
    low, high = scaled(_CROP_SIDES)
    enlarged = scaled(_CROP_SCALES)
    crop = v2.Compose([Resize(enlarged, _CROP_ASPECT * max(enlarged)), RandomSizeCrop(low, high), resize])
    return v2.Compose([v2.RandomHorizontalFlip(), v2.RandomChoice([resize, crop]), Normalise()])


def denormalise(image: Tensor) -> Tensor:
    """A normalised image `[..., 3, h, w]` as uint8 RGB."""
    mean, std = image.new_tensor(IMAGENET_MEAN), image.new_tensor(IMAGENET_STD)
    pixels = (image * std[:, None, None] + mean[:, None, None]) * 255
    return pixels.round().clamp(0, 255).to(torch.uint8)


def resized(height: int, width: int, short_side: int, long_side: int | None) -> tuple[int, int]:
    """Height and width of an image whose shorter side becomes `short_side`.

    The rule of DETR's published code, whose rounding takes the longer side of images longer than 2 : 1 past
    `long_side`, at most by some pixels unless they are longer than `long_side` : 1; here it ends there.
    """
    short, long = min(height, width), max(height, width)
    if long_side is not None and long * short_side > long_side * short:
        short_side = max(1, round(long_side * short / long))
    longer = short_side * long // short
    if long_side is not None:
        longer = min(longer, long_side)
    return (short_side, longer) if height <= width else (longer, short_side)


class Flips(v2.Transform):
    """Each with probability 1/2: left and right, top and bottom, x and y swapped; and the colour channels shuffled.

    For sets where all that leaves an object what it is. On small images one step for all of it takes a third of the
    time of torchvision's own ones after another.
    """

    def forward(self, image: Tensor, target: dict[str, Any]) -> Sample:
        across, down, swap = (torch.rand(3) < 0.5).tolist()
        pixels = image.as_subclass(Tensor)[torch.randperm(3)]
        x0, y0, x1, y1 = target["boxes"].as_subclass(Tensor).unbind(1)
        height, width = pixels.shape[-2:]
        if across:
            pixels, x0, x1 = pixels.flip(-1), width - x1, width - x0
        if down:
            pixels, y0, y1 = pixels.flip(-2), height - y1, height - y0
        if swap:
            pixels, x0, y0, x1, y1 = pixels.transpose(-1, -2), y0, x0, y1, x1
        boxes = _boxes(torch.stack((x0, y0, x1, y1), 1), pixels)
        return tv_tensors.Image(pixels), {**target, "boxes": boxes}


class Resize(v2.Transform):
    """Resize to a short side chosen at random.

    Args:
        short_sides: to choose from, in pixels.
        long_side: that the longer side gets at most; None: no bound.
    """

    def __init__(self, short_sides: Sequence[int], long_side: int | None) -> None:
        super().__init__()
        self.short_sides, self.long_side = tuple(short_sides), long_side

    def forward(self, image: Tensor, target: dict[str, Any]) -> Sample:
        several = len(self.short_sides) > 1
        short_side = self.short_sides[int(torch.randint(len(self.short_sides), ())) if several else 0]
        height, width = image.shape[-2:]
        size = resized(height, width, short_side, self.long_side)
        if size == (height, width):
            return image, target
        boxes = F.resize(target["boxes"], list(size))
        if size[1] == 1:  # PyTorch's kernel for bytes (2.11) goes past the end of such a result
            return F.resize(image.float(), list(size), antialias=True).round().byte(), {**target, "boxes": boxes}
        return F.resize(image, list(size), antialias=True), {**target, "boxes": boxes}


class RandomSizeCrop(v2.Transform):
    """Cut out a rectangle, each side of a length chosen at random. Boxes are cut, too, and dropped if nothing is left.

    Args:
        low: shortest side, in pixels; smaller images keep theirs.
        high: longest side.
    """

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, image: Tensor, target: dict[str, Any]) -> Sample:
        (top, height), (left, width) = (self._part(side) for side in image.shape[-2:])
        boxes = F.crop(target["boxes"], top, left, height, width)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1).as_subclass(Tensor)
        image = F.crop(image, top, left, height, width)
        labels, boxes = target["labels"][kept], _boxes(boxes.as_subclass(Tensor)[kept], image)
        return image, {**target, "labels": labels, "boxes": boxes}

    def _part(self, side: int) -> tuple[int, int]:
        """Start and length of a part of a side."""
        low, high = min(side, self.low), min(side, self.high)
        length = int(torch.randint(low, high + 1, ()))
        return int(torch.randint(side - length + 1, ())), length


class Normalise(v2.Transform):
    """Pixels to float32 with ImageNet's mean 0 and deviation 1; boxes to cxcywh in 0..1; both to plain tensors."""

    def __init__(self) -> None:
        super().__init__()
        # In the image's own 0..255, which saves a pass over it.
        self.mean = 255 * torch.tensor(IMAGENET_MEAN)[:, None, None]
        self.scale = 1 / (255 * torch.tensor(IMAGENET_STD)[:, None, None])

    def forward(self, image: Tensor, target: dict[str, Any]) -> Sample:
        height, width = image.shape[-2:]
        pixels = image.as_subclass(Tensor).contiguous().float().sub_(self.mean).mul_(self.scale)
        corners = target["boxes"].as_subclass(Tensor)
        low, high = corners[:, :2], corners[:, 2:]
        boxes = torch.cat(((low + high) / 2, high - low), 1) / torch.tensor([width, height, width, height])
        return pixels, {**target, "boxes": boxes}


def _boxes(corners: Tensor, image: Tensor) -> Tensor:
    """Corners `[n, 4]` xyxy on an image."""
    return tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=tuple(image.shape[-2:]))
