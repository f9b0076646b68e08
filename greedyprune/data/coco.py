"""Detection data sets in COCO's layout."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from greedyprune.data.annotations import open_annotations
from greedyprune.data.transforms import Normalise
from greedyprune.errors import UserError

Item = tuple[Tensor, dict[str, Any]]
# What Pillow raises for files that are not images, or are cut off, or are broken inside.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)


class ImageError(UserError):
    """An image that is listed cannot be used.

    A DataLoader raises what a worker raised again, with the worker's traceback for a message. Its last line is ours:
    that alone is kept.
    """

    def __init__(self, message: str) -> None:
        lines = message.strip().splitlines()
        super().__init__(lines[-1].partition(f"{ImageError.__name__}: ")[2] if len(lines) > 1 else message)


class CocoDetection(Dataset[Item]):
    """Images and their boxes.

    An item is what `transform` makes of an image `[3, h, w]` uint8 and a target; with this project's transforms:
    the image `[3, h, w]` float32, ImageNet-normalised, and a dict of

    - `image_id`: int.
    - `size`: int64 `[2]`, height and width of the original image.
    - `labels`: int64 `[n]`, places in `category_ids`.
    - `boxes`: float32 `[n, 4]` cxcywh in 0..1 of the image after the transform. Crowds are left out, boxes are clipped
      to the image, and those without area are left out.

    Args:
        root: folder with `train2017`, `val2017` and `annotations`.
        split: `train` or `val`.
        category_ids: the category of each label, None for one that has none here; None: all of the file, by id.
        transform: called with image and target, whose boxes are tv_tensors in pixels; None: only normalises.
        image_ids: the images to use; None: all.
        cache_images: keep decoded images in this process's memory.

    Attributes:
        root: as given.
        folder: where the split's images are.
        category_ids: category of each label; None: it has none.
        class_names: name of each label; the id for categories that the file does not list.
        image_ids: sorted; item i is image `image_ids[i]`.
        coco: pycocotools' index of the annotation file. Data sets on the same file share it.
        fingerprint: SHA-256 of the annotation file, in hex.

    Raises:
        UserError: folder or file missing or broken (see `open_annotations`), an annotation's category is not in
            `category_ids`, or an image of `image_ids` is not listed.
        ImageError: when an item is taken: its image is missing, broken, or not of the size that the file says.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        category_ids: Sequence[int | None] | None = None,
        transform: Callable[[Tensor, dict[str, Any]], Item] | None = None,
        image_ids: Sequence[int] | None = None,
        cache_images: bool = False,
    ) -> None:
        self.root = Path(root)
        self.folder = self.root / f"{split}2017"
        annotations = open_annotations(self.root, split)
        self.coco, self.fingerprint = annotations.coco, annotations.fingerprint
        self.category_ids = tuple[int | None, ...](sorted(self.coco.cats) if category_ids is None else category_ids)
        self.class_names = tuple(
            str(self.coco.cats[category]["name"]) if category in self.coco.cats else str(category)
            for category in self.category_ids
        )
        self.image_ids = sorted(self.coco.imgs if image_ids is None else image_ids)
        for image in self.image_ids:
            if image not in self.coco.imgs:
                raise UserError(f"{annotations.path} does not list image {image}")
        self.transform = Normalise() if transform is None else transform
        self._cache: dict[int, Tensor] | None = {} if cache_images else None
        self._index(annotations.path)

    def _index(self, path: Path) -> None:
        """The annotations as arrays: lists of dicts would be copied page by page into every worker's memory."""
        labels = {category: label for label, category in enumerate(self.category_ids) if category is not None}
        rows, label_rows, ends = [], [], [0]
        for image in self.image_ids:
            for annotation in self.coco.imgToAnns.get(image, ()):
                category = annotation["category_id"]
                if category not in labels:
                    raise UserError(
                        f"{path}: annotation {annotation['id']} is of category {category} "
                        f"({self.coco.cats[category]['name']}), which is none of the {len(labels)} that are asked for"
                    )
                if not annotation["iscrowd"]:
                    rows.append(annotation["bbox"])
                    label_rows.append(labels[category])
            ends.append(len(rows))
        boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # xywh -> xyxy
        self._boxes = torch.from_numpy(boxes).float()  # [all, 4]
        self._labels = torch.tensor(label_rows, dtype=torch.int64)
        self._ends = np.array(ends)
        listed = [self.coco.imgs[image] for image in self.image_ids]
        self._files = np.array([str(image["file_name"]) for image in listed], dtype=np.str_)
        self._sizes = torch.tensor([[image["height"], image["width"]] for image in listed], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]  # from the end, too; IndexError where there is none
        image = self._image(index)
        height, width = image.shape[-2:]
        some = slice(self._ends[index], self._ends[index + 1])
        boxes = torch.minimum(self._boxes[some].clamp(min=0), torch.tensor([width, height, width, height]))
        solid = (boxes[:, 2:] > boxes[:, :2]).all(1)
        target = {
            "image_id": self.image_ids[index],
            "size": torch.tensor([height, width]),
            "labels": self._labels[some][solid],
            "boxes": tv_tensors.BoundingBoxes(boxes[solid], format="XYXY", canvas_size=(height, width)),
        }
        return self.transform(tv_tensors.Image(image), target)

    def image_path(self, image_id: int) -> Path:
        """Where an image's file is."""
        return self.folder / self.coco.imgs[image_id]["file_name"]

    def _image(self, index: int) -> Tensor:
        """`[3, h, w]` uint8 RGB; not to be changed in place."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        path = self.folder / self._files[index]
        what = f"image {self.image_ids[index]} ({' '.join(str(path).split())})"
        try:
            with Image.open(path) as file:
                pixels = np.array(file if file.mode == "RGB" else file.convert("RGB"))  # [h, w, 3]
        except FileNotFoundError:
            raise ImageError(f"{what} is listed in the annotations, but there is no such file") from None
        except _BROKEN as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"{what} cannot be read: {reason}; replace it or remove it from the annotations") from None
        if list(pixels.shape[:2]) != self._sizes[index].tolist():
            height, width = self._sizes[index].tolist()
            found = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise ImageError(f"{what} is {found} pixels, but {width} x {height} in the annotations; correct them")
        image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()  # [3, h, w]
        if self._cache is not None:
            self._cache[index] = image
        return image
