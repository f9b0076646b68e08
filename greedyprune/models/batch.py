"""Images of different sizes as one padded tensor that knows its padding."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class ImageBatch(NamedTuple):
    """Normalised images padded at the bottom and right to one size.

    Attributes:
        tensors: `[B, 3, H, W]` float.
        padding: `[B, H, W]` bool, True where there is padding; None when no image is padded.
    """

    tensors: Tensor
    padding: Tensor | None

    def to(self, device: torch.device | str) -> "ImageBatch":
        padding = None if self.padding is None else self.padding.to(device, non_blocking=True)
        return ImageBatch(self.tensors.to(device, non_blocking=True), padding)


def pad_images(images: Sequence[Tensor]) -> ImageBatch:
    """Pad `[3, h, w]` images to the largest height and width among them.

    Raises:
        ValueError: no image, or one that is not `[3, h, w]`.
    """
    if not images:
        raise ValueError("a batch needs at least one image")
    for i, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != 3:
            raise ValueError(f"image {i} of the batch has shape {list(image.shape)}, expected [3, h, w]")
    if len({tuple(image.shape) for image in images}) == 1:
        return ImageBatch(torch.stack(list(images)), None)
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    tensors = images[0].new_zeros(len(images), 3, height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool, device=images[0].device)
    for i, image in enumerate(images):
        tensors[i, :, : image.shape[1], : image.shape[2]] = image
        padding[i, : image.shape[1], : image.shape[2]] = False
    return ImageBatch(tensors, padding)


def as_batch(images: "Sequence[Tensor] | ImageBatch | Tensor") -> ImageBatch:
    """Whatever a detector accepts as its images, as an ImageBatch."""
    if isinstance(images, ImageBatch):
        return images
    if isinstance(images, Tensor):
        return ImageBatch(images, None)
    if isinstance(images, tuple) and len(images) == 2 and images[0].dim() == 4:
        return ImageBatch(*images)
    return pad_images(images)
