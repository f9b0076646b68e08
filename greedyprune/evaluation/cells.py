"""Ground truth by cells: the objects of one category in one image, which only its detections can be."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Cells:
    """The ground truth of one set of images, sorted by cell; a cell is a pair of an image and a category.

    Args:
        coco: a pycocotools COCO with the ground truth.
        image_ids: the images that count.

    Attributes:
        image_ids: int64 [I], rising.
        category_ids: int64 [K], rising.
        truths: the annotations [G], by cell, within a cell in the file's order.
        cell: int64 [G], image * K + category, rising.
        box: float64 [G, 4] xywh.
        crowd: bool [G].
    """

    def __init__(self, coco: Any, image_ids: Sequence[int]) -> None:
        self.image_ids = np.unique(np.asarray(image_ids, dtype=np.int64))
        self.category_ids = np.array(sorted(coco.getCatIds()), dtype=np.int64)
        truths = [truth for image in self.image_ids.tolist() for truth in coco.imgToAnns.get(image, ())]
        cells, known = self.numbers(
            np.array([truth["image_id"] for truth in truths], dtype=np.int64),
            np.array([truth["category_id"] for truth in truths], dtype=np.int64),
        )
        order = np.flatnonzero(known)[np.argsort(cells[known], kind="stable")]
        self.truths = [truths[place] for place in order]
        self.cell = cells[order]
        self.box = np.array([truth["bbox"] for truth in self.truths], dtype=np.float64).reshape(-1, 4)
        self.crowd = np.array([bool(int(truth.get("iscrowd", 0))) for truth in self.truths], dtype=bool)
        self._count = np.bincount(self.cell, minlength=len(self.image_ids) * len(self.category_ids))

    def numbers(self, image_ids: np.ndarray, category_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The cell of each (image, category) pair, and whether it is one that counts."""
        if not len(self.image_ids) or not len(self.category_ids):
            return np.zeros(len(image_ids), dtype=np.int64), np.zeros(len(image_ids), dtype=bool)
        image, known = positions(self.image_ids, image_ids)
        category, listed = positions(self.category_ids, category_ids)
        return image * len(self.category_ids) + category, known & listed

    def pairs(self, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All pairs of a detection and a ground truth of its cell: their positions, the detections' rising.

        Args:
            cell: [D] of every detection, one that counts.
        """
        return pairs(cell, self._count)


def positions(known: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where values stand in a rising array that is not empty, and whether they stand there at all."""
    place = np.searchsorted(known, values).clip(max=len(known) - 1)
    return place, known[place] == values


def pairs(group: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each of N things with each member of its group: the positions of both.

    Args:
        group: [N] the group of each.
        count: [groups] members of every group, which stand in the groups' order.
    """
    first, many = (np.cumsum(count) - count)[group], count[group]
    thing = np.repeat(np.arange(len(group)), many)
    return thing, np.arange(len(thing)) - np.repeat(np.cumsum(many) - many - first, many)
