"""Detection data sets in COCO's layout."""

import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from greedyprune.data.annotations import open_annotations
from greedyprune.data.images import is_ambiguous, read_image
from greedyprune.data.transforms import Normalise
from greedyprune.errors import UserError

Item = tuple[Tensor, dict[str, Any]]
_LOOKED_AT = 1000  # images whose headers are read, to say how many have an orientation that is guessed


class CocoDetection(Dataset[Item]):
    """Images and their boxes.

    An item is what `transform` makes of an image `[3, h, w]` uint8 and a target; with this project's transforms:
    the image `[3, h, w]` float32, ImageNet-normalised, and a dict of

    - `image_id`: int.
    - `size`: int64 `[2]`, height and width of the original image.
    - `labels`: int64 `[n]`, places in `category_ids`.
    - `boxes`: float32 `[n, 4]` cxcywh in 0..1 of the image after the transform. Crowds and difficult objects are left
      out, boxes are clipped to the image, and those without area are left out.

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
        self._first_guess = annotations.first_guess
        self.category_ids = tuple[int | None, ...](sorted(self.coco.cats) if category_ids is None else category_ids)
        self.class_names = tuple(
            self.coco.cats[category]["name"] if category in self.coco.cats else str(category)
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
                if not annotation["iscrowd"] and not annotation.get("difficult"):
                    rows.append(annotation["bbox"])
                    label_rows.append(labels[category])
            ends.append(len(rows))
        boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # xywh -> xyxy
        self._boxes = torch.from_numpy(boxes).float()  # [all, 4]
        self._labels = torch.tensor(label_rows, dtype=torch.int64)
        self._ends = np.array(ends)
        listed = [self.coco.imgs[image] for image in self.image_ids]
        names = [image["file_name"] for image in listed]
        self._files = "\0".join(names)  # one object, as wide as the names are
        self._file_ends = np.cumsum([len(name) + 1 for name in names], dtype=np.int64)
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

    def pixels(self, image_id: int) -> Tensor:
        """An image as its annotations see it: `[3, h, w]` uint8 RGB; not to be changed in place.

        Raises:
            UserError: the data set has no such image.
            ImageError: see `read_image`.
        """
        index = bisect_left(self.image_ids, image_id)
        if self.image_ids[index : index + 1] != [image_id]:
            raise UserError(f"the data set in {self.root} has no image {image_id}")
        return self._image(index)

    def _image(self, index: int) -> Tensor:
        """`[3, h, w]` uint8 RGB; not to be changed in place."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        path, size = self._file(index)
        rgb, guessed = read_image(path, size, self._name(index))
        if guessed and self._first_guess():
            self._tell_guesses(index)
        image = torch.from_numpy(rgb).permute(2, 0, 1).contiguous()  # [3, h, w]
        if self._cache is not None:
            self._cache[index] = image
        return image

    def _file(self, index: int) -> tuple[Path, tuple[int, int]]:
        """An image's file, and the height and width that the annotations say."""
        start = self._file_ends[index - 1] if index else 0
        height, width = self._sizes[index].tolist()
        return self.folder / self._files[start : self._file_ends[index] - 1], (height, width)

    def _name(self, index: int) -> str:
        """An image in a message."""
        return f"image {self.image_ids[index]} ({' '.join(str(self._file(index)[0]).split())})"

    def _tell_guesses(self, index: int) -> None:
        looked_at = min(len(self), _LOOKED_AT)
        found = [other for other in range(looked_at) if is_ambiguous(*self._file(other))]
        warnings.warn(
            f"{self._name(min(found, default=index))} has an EXIF orientation, and its width and height do not tell "
            f"whether its annotations were made on the picture as stored or on the upright one; so have {len(found)} "
            f"of the first {looked_at} images; all such are taken upright. Where that is wrong, remove the orientation "
            "from the files",
            stacklevel=2,
        )
