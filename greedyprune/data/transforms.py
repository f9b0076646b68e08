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
from greedyprune.image_form import IMAGENET_MEAN, IMAGENET_STD, ImageForm, Sides

AUGMENTATIONS = ("detr", "darknet", "flips", "none")

# DETR (Carion et al. 2020, section A.4) and its published code: pixels, for images whose short side becomes 800.
_DETR_SHORT_SIDE = 800
_SCALES = tuple(range(480, 801, 32))
_CROP_SCALES = (400, 500, 600)
_CROP_SIDES = (384, 600)
# Longest side before cropping, in short sides. DETR has no bound: an image of 1 x 20000 would take 43 GB.
_CROP_ASPECT = 10

Sample = tuple[Tensor, dict[str, Any]]


def eval_transform(short_side: int, long_side: int) -> nn.Module:
    """Resize and normalise as DETRs want it, with nothing random.

    Args:
        short_side: pixels that the shorter side gets.
        long_side: pixels that the longer side gets at most; the shorter one has fewer then.
    """
    return form_transform(ImageForm(Sides(short_side, long_side)))


def train_transform(kind: str, short_side: int, long_side: int) -> nn.Module:
    """Augment, resize and normalise as DETRs want it; see `form_transform`.

    Raises:
        UserError: unknown kind.
    """
    return form_transform(ImageForm(Sides(short_side, long_side)), kind)


def form_transform(form: ImageForm, kind: str = "none") -> nn.Module:
    """Augment, and bring images into a form.

    Args:
        form: size and normalisation.
        kind: `detr`: left and right flipped at random; then resized to one of several sizes, half of the time after
            resizing and cropping at random. `darknet`: see `Jitter` and `Distort`, and flips left and right. `flips`:
            see `Flips`. `none`: nothing random. Images that are stretched have one size in the end.

    Raises:
        UserError: unknown kind.
    """
    if kind not in AUGMENTATIONS:
        raise UserError(f"augmentation {kind!r} is unknown; choose one of {', '.join(AUGMENTATIONS)}")
    normalise, size = Normalise(form.mean, form.std), form.size
    resize = Resize((size.short,), size.long) if isinstance(size, Sides) else Stretch(size.height, size.width)
    if kind == "none":
        return v2.Compose([resize, normalise])
    if kind == "flips":
        return v2.Compose([Flips(), resize, normalise])
    if kind == "darknet":
        return v2.Compose([Jitter(), resize, v2.RandomHorizontalFlip(), Distort(), normalise])
    short_side = size.short if isinstance(size, Sides) else min(size.height, size.width)

    def scaled(sides: Sequence[int]) -> tuple[int, ...]:
        return tuple(max(1, round(side * short_side / _DETR_SHORT_SIDE)) for side in sides)

    if isinstance(size, Sides):
        resize = Resize(scaled(_SCALES), size.long)
    low, high = scaled(_CROP_SIDES)
    enlarged = scaled(_CROP_SCALES)
    crop = v2.Compose([Resize(enlarged, _CROP_ASPECT * max(enlarged)), RandomSizeCrop(low, high), resize])
    return v2.Compose([v2.RandomHorizontalFlip(), v2.RandomChoice([resize, crop]), normalise])


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
        return _resized_to(resized(height, width, short_side, self.long_side), image, target)


class Stretch(v2.Transform):
    """Resize to one size, whatever the aspect.

    Args:
        height: in pixels.
        width: in pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, image: Tensor, target: dict[str, Any]) -> Sample:
        return _resized_to((self.height, self.width), image, target)


def _resized_to(size: tuple[int, int], image: Tensor, target: dict[str, Any]) -> Sample:
    """An image and its boxes at a height and width."""
    if size == tuple(image.shape[-2:]):
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
        return _cropped(image, target, (top, left, height, width))

    def _part(self, side: int) -> tuple[int, int]:
        """Start and length of a part of a side."""
        low, high = min(side, self.low), min(side, self.high)
        length = int(torch.randint(low, high + 1, ()))
        return int(torch.randint(side - length + 1, ())), length


class Jitter(v2.Transform):
    """Each edge of the image moved in or out by a random part of its side; black where there was no image.

    Boxes are cut, too, and dropped if nothing is left.

    Args:
        share: of the side, at most; 0.2 is Darknet's for YOLOv2.
    """

    def __init__(self, share: float = 0.2) -> None:
        super().__init__()
        self.share = share

    def forward(self, image: Tensor, target: dict[str, Any]) -> Sample:
        height, width = image.shape[-2:]
        moved = (torch.rand(4) * 2 - 1) * self.share
        top, bottom = (int(move * height) for move in moved[:2].tolist())
        left, right = (int(move * width) for move in moved[2:].tolist())
        box = (top, left, max(1, height - top - bottom), max(1, width - left - right))
        return _cropped(image, target, box)


class Distort(v2.Transform):
    """Hue turned, and saturation and brightness multiplied at random, as in Darknet's data augmentation.

    The saturation is torchvision's, a blend with the grey image, where Darknet multiplies that of HSV.

    Args:
        hue: of a whole turn, at most.
        factor: saturation and brightness are multiplied with up to so much, or divided by it.
    """

    def __init__(self, hue: float = 0.1, factor: float = 1.5) -> None:
        super().__init__()
        self.hue, self.factor = hue, factor

    def forward(self, image: Tensor, target: dict[str, Any]) -> Sample:
        turn, *amounts = torch.rand(3).tolist()
        image = F.adjust_hue(image, (turn * 2 - 1) * self.hue)
        saturation, brightness = (self._factor(amount) for amount in amounts)
        return F.adjust_brightness(F.adjust_saturation(image, saturation), brightness), target

    def _factor(self, amount: float) -> float:
        """A factor from 1 up for an amount of half or more, and down from 1 below."""
        factor = 1 + abs(amount * 2 - 1) * (self.factor - 1)
        return factor if amount >= 0.5 else 1 / factor


def _cropped(image: Tensor, target: dict[str, Any], box: tuple[int, int, int, int]) -> Sample:
    """What is inside top, left, height and width; boxes are cut, too, and dropped if nothing is left."""
    boxes = F.crop(target["boxes"], *box)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1).as_subclass(Tensor)
    image = F.crop(image, *box)
    labels, boxes = target["labels"][kept], _boxes(boxes.as_subclass(Tensor)[kept], image)
    return image, {**target, "labels": labels, "boxes": boxes}


class Normalise(v2.Transform):
    """Pixels to float32 with mean 0 and deviation 1; boxes to cxcywh in 0..1; both to plain tensors.

    Args:
        mean: of the colours in 0..1.
        std: their deviation.
    """

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        # In the image's own 0..255, which saves a pass over it.
        self.mean = 255 * torch.tensor(mean)[:, None, None]
        self.scale = 1 / (255 * torch.tensor(std)[:, None, None])

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
