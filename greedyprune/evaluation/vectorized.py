"""pycocotools' box evaluation in a few array operations, for searches that ask for it thousands of times."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from greedyprune.evaluation.cells import Cells
from greedyprune.evaluation.detections import Found, as_detections

# pycocotools.cocoeval.Params, written out: its thresholds come from the same calls.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
AREA_RANGES = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]])  # all, small, medium, large
MAX_DETECTIONS = (1, 10, 100)


class CocoEvaluator:
    """Scores detections against one set of images; the ground truth is prepared once.

    Its arrays are those of `pycocotools.cocoeval.COCOeval` with `iouType="bbox"`, bit for bit, where pycocotools is
    given images and annotations that are numbered from 1: it cannot find an annotation with id 0. What pycocotools does
    with Python loops over (category, area range, image, threshold, detection, ground truth), this does at once for
    all of them, save for the rank of a detection within its image and category, which has to go in order.

    Args:
        coco: a pycocotools COCO with the ground truth.
        image_ids: the images that count.
    """

    def __init__(self, coco: Any, image_ids: Sequence[int]) -> None:
        self._cells = cells = Cells(coco, image_ids)
        self._box, self._crowd = cells.box, cells.crowd
        self._area = np.array([truth["area"] for truth in cells.truths], dtype=np.float64)

    def ap(self, found: Found) -> float:
        """COCO's AP: the mean over IoU 0.50:0.95, all areas, at most 100 detections per image and category.

        -1 where there is no ground truth.
        """
        precision, _ = self.curves(found, AREA_RANGES[:1], MAX_DETECTIONS[-1:])
        values = precision[..., 0, 0][precision[..., 0, 0] > -1]
        return float(values.mean()) if len(values) else -1.0

    def curves(
        self, found: Found, areas: np.ndarray = AREA_RANGES, limits: Sequence[int] = MAX_DETECTIONS
    ) -> tuple[np.ndarray, np.ndarray]:
        """Precision `[T, R, K, A, M]` and recall `[T, K, A, M]` as in `COCOeval.eval`; -1 without ground truth.

        Args:
            found: detections; those of other images or unknown categories do not count.
            areas: `[A, 2]` smallest and largest area in square pixels.
            limits: M numbers of best detections per image and category, rising.
        """
        detections = as_detections(found)
        cell, known = self._cells.numbers(detections.image_ids, detections.category_ids)
        cell, box, score = cell[known], detections.boxes[known], detections.scores[known]
        order = np.lexsort((-score, cell))
        cell, box, score = cell[order], box[order], score[order]
        rank = np.arange(len(cell)) - np.searchsorted(cell, cell)
        counted = rank < limits[-1]
        cell, box, score, rank = cell[counted], box[counted], score[counted], rank[counted]

        ignored = self._crowd[:, None] | _outside(self._area, areas)  # [G, A]
        matched, set_aside = self._match(cell, box, ignored)  # [D, T, A]
        set_aside |= ~matched & _outside(box[:, 2] * box[:, 3], areas)[:, None]
        true = np.ascontiguousarray((matched & ~set_aside).transpose(2, 1, 0))  # [A, T, D]
        false = np.ascontiguousarray(~(matched | set_aside).transpose(2, 1, 0))

        kinds, thresholds = len(self._cells.category_ids), len(IOU_THRESHOLDS)
        shape = (kinds, len(areas), len(limits))
        precision = -np.ones((thresholds, len(RECALL_THRESHOLDS), *shape))
        recall = -np.ones((thresholds, *shape))
        category = cell % kinds
        order = np.lexsort((-score, category))
        ends = np.searchsorted(category[order], np.arange(kinds + 1))
        for k in range(kinds):
            positives = (~ignored[self._cells.cell % kinds == k]).sum(0)  # [A]
            best_first = order[ends[k] : ends[k + 1]]
            for m, limit in enumerate(limits):
                rows = best_first[rank[best_first] < limit]
                for a in np.flatnonzero(positives):
                    curve = _curve(true[a].take(rows, axis=1), false[a].take(rows, axis=1), positives[a])
                    precision[:, :, k, a, m], recall[:, k, a, m] = curve
        return precision, recall

    def _overlaps(self, cell: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of a detection and a ground truth of its cell that may match: their positions, and their IoU."""
        detection, truth = self._cells.pairs(cell)
        a, b = box[detection], self._box[truth]
        size = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
        overlap, area = size[:, 0] * size[:, 1], a[:, 2] * a[:, 3]
        # A crowd may cover any number of objects: the detection's own area is all that it is held against.
        union = np.where(self._crowd[truth], area, area + b[:, 2] * b[:, 3] - overlap)
        near = (size > 0).all(1)
        detection, truth, iou = detection[near], truth[near], overlap[near] / union[near]
        near = iou >= IOU_THRESHOLDS[0]
        return detection[near], truth[near], iou[near]

    def _match(self, cell: np.ndarray, box: np.ndarray, ignored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Greedy matching from the best score down.

        Args:
            cell: [D], rising; within a cell the best score comes first.
            box: [D, 4] xywh.
            ignored: [G, A] ground truths that do not count in an area range.

        Returns:
            Whether each detection is matched, and whether to an ignored ground truth: bool `[D, T, A]`.
        """
        shape = (len(IOU_THRESHOLDS), ignored.shape[1])
        matched, set_aside = np.zeros((len(cell), *shape), dtype=bool), np.zeros((len(cell), *shape), dtype=bool)
        taken = np.zeros((len(self._box), *shape), dtype=bool)
        pair_detection, pair_truth, pair_iou = self._overlaps(cell, box)
        contenders, first, count = np.unique(pair_detection, return_index=True, return_counts=True)
        turn = np.arange(len(contenders)) - np.searchsorted(cell[contenders], cell[contenders])
        by_turn = np.argsort(turn, kind="stable")
        for now in np.split(by_turn, np.cumsum(np.bincount(turn))[:-1]) if len(turn) else ():
            slot = np.arange(count[now].max())
            pair = np.minimum(first[now, None] + slot, len(pair_iou) - 1)  # [n, slots]
            truth, iou = pair_truth[pair], pair_iou[pair]
            free = ~taken[truth] | self._crowd[truth][..., None, None]  # [n, slots, T, A]
            reached = (iou[..., None] >= IOU_THRESHOLDS) & (slot < count[now, None])[..., None]
            # Any ground truth that counts goes before all ignored ones; of equal overlaps the last one wins.
            worth = iou[..., None, None] + 2 * ~ignored[truth][:, :, None]
            worth = np.where(reached[..., None] & free, worth, -1)
            best = len(slot) - 1 - worth[:, ::-1].argmax(1)  # [n, T, A]
            n, t, a = np.nonzero(worth.max(1) >= 0)
            winner = truth[n, best[n, t, a]]
            taken[winner, t, a] = True
            matched[contenders[now][n], t, a] = True
            set_aside[contenders[now][n], t, a] = ignored[winner, a]
        return matched, set_aside


def _outside(area: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Whether areas [N] lie outside each of the ranges [A, 2]: bool `[N, A]`."""
    return (area[:, None] < ranges[:, 0]) | (area[:, None] > ranges[:, 1])


def _curve(true: np.ndarray, false: np.ndarray, positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision at the recall thresholds `[T, R]` and the highest recall `[T]`.

    Args:
        true: bool `[T, D]`, best score first.
        false: the same for what counts as a false detection.
        positives: number of ground truths, at least 1.
    """
    count = true.shape[1]
    if not count:
        return np.zeros((len(true), len(RECALL_THRESHOLDS))), np.zeros(len(true))
    hits, misses = true.cumsum(1).astype(np.float64), false.cumsum(1).astype(np.float64)
    recall, precision = hits / positives, hits / (misses + hits + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    place = np.stack([np.searchsorted(row, RECALL_THRESHOLDS) for row in recall])  # [T, R]
    sampled = np.take_along_axis(precision, place.clip(max=count - 1), axis=1)
    return np.where(place < count, sampled, 0.0), recall[:, -1]
