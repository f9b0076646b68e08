"""Pascal VOC's average precision, on arrays.

The rules are those of the VOC development kit as `voc_eval` of py-faster-rcnn has them, by which detectors on VOC are
compared: a pixel counts at both ends of a box, detections are taken as they are although annotations count pixels from
1, and a detection is held against the object that it overlaps most, whether that is taken or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from greedyprune.evaluation.accuracy import Accuracy, mean_known, unique_names
from greedyprune.evaluation.cells import Cells
from greedyprune.evaluation.detections import Found, as_detections

OVERLAP = 0.5  # that a detection must exceed
RECALLS = np.arange(
    0.0, 1.1, 0.1
)  # of the 11 points, with the rounding that published numbers have: 0.30000000000000004


@dataclass(frozen=True)
class Curve:
    """Recall and precision of one class after each of its D detections, best score first.

    Attributes:
        objects: those to be found; 0: there is no curve.
        recall: float64 [D].
        precision: float64 [D].
    """

    objects: int
    recall: np.ndarray
    precision: np.ndarray

    @property
    def eleven_points(self) -> float:
        """VOC2007's AP: the mean over 11 recalls of the greatest precision at that recall or a higher one."""
        if not self.objects:
            return -1.0
        reached = self.recall >= RECALLS[:, None]  # [11, D]
        return float(np.where(reached, self.precision, 0.0).max(axis=1, initial=0.0).mean())

    @property
    def area(self) -> float:
        """AP since VOC2010: the area below the precision that never rises."""
        if not self.objects:
            return -1.0
        recall = np.concatenate(([0.0], self.recall))
        envelope = np.maximum.accumulate(self.precision[::-1])[::-1]
        return float((np.diff(recall) * envelope).sum())


class VocEvaluator:
    """VOC's AP of detections on one set of images; the ground truth is prepared once.

    Objects that are `difficult`, and crowds, need not be found, and detections of them count neither as right nor as
    wrong.

    Args:
        coco: a pycocotools COCO with the ground truth.
        image_ids: the images that count.
        eleven_points: AP as of VOC2007; False: as of VOC2010.
        overlap: that a detection must exceed.
    """

    def __init__(self, coco: Any, image_ids: Sequence[int], eleven_points: bool, overlap: float = OVERLAP) -> None:
        self._cells = cells = Cells(coco, image_ids)
        self._names = unique_names(coco.loadCats(cells.category_ids.tolist()))
        self._by_points, self._overlap = eleven_points, overlap
        difficult = np.array([bool(truth.get("difficult", 0)) for truth in cells.truths], dtype=bool)
        self._spared = difficult | cells.crowd  # [G]

    def ap(self, found: Found) -> float:
        """The mean over the classes that have objects to be found; -1 where none has."""
        return mean_known(np.array(list(self._per_class(found).values())))

    def accuracy(self, found: Found) -> Accuracy:
        """AP, and that of every class."""
        per_class = self._per_class(found)
        return Accuracy({"AP": mean_known(np.array(list(per_class.values())))}, per_class)

    def _per_class(self, found: Found) -> dict[str, float]:
        curves = self.curves(found)
        return {
            name: curve.eleven_points if self._by_points else curve.area
            for name, curve in zip(self._names, curves, strict=True)
        }

    def curves(self, found: Found) -> list[Curve]:
        """Recall and precision of every category, by its id; equal scores keep the detections' order."""
        cells, kinds = self._cells, len(self._cells.category_ids)
        detections = as_detections(found)
        cell, known = cells.numbers(detections.image_ids, detections.category_ids)
        cell, box, score = cell[known], detections.boxes[known], detections.scores[known]
        category = cell % max(kinds, 1)
        order = np.lexsort((-score, category))
        category = category[order]
        true, false = self._judged(cell[order], box[order])
        ends = np.searchsorted(category, np.arange(kinds + 1))
        curves = []
        for k in range(kinds):
            objects = int((~self._spared[cells.cell % kinds == k]).sum())
            rows = slice(ends[k], ends[k + 1])
            hits, misses = np.cumsum(true[rows]), np.cumsum(false[rows])
            curves.append(Curve(objects, hits / max(objects, 1), hits / np.maximum(hits + misses, 1)))
        return curves

    def _judged(self, cell: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which detections are right and which are wrong: bool [D] each.

        Args:
            cell: [D]; detections of one cell best score first.
            box: [D, 4] xywh.
        """
        detection, truth = self._cells.pairs(cell)
        a, b = box[detection], self._cells.box[truth]
        # Of b the pixels x + 1 ... x + w, counted from 1; of a what its corners say.
        size = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - np.maximum(a[:, :2], b[:, :2] + 1) + 1
        shared = size.clip(min=0).prod(axis=1)
        overlap = shared / ((a[:, 2:] + 1).prod(axis=1) + b[:, 2:].prod(axis=1) - shared)
        near = overlap > self._overlap
        detection, truth, overlap = detection[near], truth[near], overlap[near]
        best = np.lexsort((-overlap, detection))  # of equal overlaps the first object
        claimant, first = np.unique(detection[best], return_index=True)
        claimed = truth[best][first]
        spared = self._spared[claimed]
        true, false = np.zeros(len(cell), dtype=bool), np.ones(len(cell), dtype=bool)
        _, earliest = np.unique(claimed[~spared], return_index=True)
        true[claimant[~spared][earliest]] = True
        false[claimant[spared]] = False
        return true, false & ~true
