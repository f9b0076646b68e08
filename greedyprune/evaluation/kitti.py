"""KITTI's average precision of 2D boxes at its three levels, on arrays.

The rules are those of the object development kit (`evaluate_object.cpp`). Its order of things matters and is kept: the
objects of an image choose their detections one after another, first to find the scores at which recall rises by a
fortieth, then once more at each of these scores, where precision is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from greedyprune.errors import UserError
from greedyprune.evaluation.accuracy import Accuracy, mean_known
from greedyprune.evaluation.cells import pairs, positions
from greedyprune.evaluation.detections import Detections, Found, as_detections

OVERLAPS = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}  # that a detection must exceed, of every evaluated class
NEIGHBOURS = {"Car": "Van", "Pedestrian": "Person_sitting"}  # a detection of these is neither right nor wrong
IGNORED_REGION = "DontCare"
POINTS = 41  # recalls 0, 1/40 ... 1


@dataclass(frozen=True)
class Level:
    """Which objects must be found.

    Attributes:
        name: of the level.
        height: least height of the box in pixels.
        occluded: greatest occlusion: 0 visible, 1 partly, 2 largely hidden.
        truncated: greatest share outside of the image.
    """

    name: str
    height: float
    occluded: int
    truncated: float


LEVELS = (Level("easy", 40, 0, 0.15), Level("moderate", 25, 1, 0.30), Level("hard", 25, 2, 0.50))
RANKED = "AP40_moderate"  # KITTI's tables are sorted by it
NAMES = ("AP", *(f"{kind}_{level.name}" for kind in ("AP40", "AP11") for level in LEVELS))


@dataclass(frozen=True)
class _Truths:
    """What detections of one class may be, sorted by image, within an image in the file's order.

    Attributes:
        image: [G] rising places of the images.
        box: [G, 4] xywh.
        left_out: [levels, G] objects that need not be found at a level, and neighbours.
        region_count: [I] regions without labels in every image.
        region_box: [R, 4] xywh, by image.
    """

    image: np.ndarray
    box: np.ndarray
    left_out: np.ndarray
    region_count: np.ndarray
    region_box: np.ndarray


@dataclass(frozen=True)
class _Answers:
    """The detections that count in the evaluation of one class at one level, in the order in which they were given.

    Attributes:
        box: [D, 4] xywh.
        score: [D].
        low: [D] those that are too low: they can be chosen, and are neither right nor wrong.
        excused: [D] those that lie in a region without labels.
        pair_answer: [P] and
        pair_truth: [P] a detection and an object that it overlaps enough, by object, then in the detections' order.
        pair_overlap: [P] by how much.
    """

    box: np.ndarray
    score: np.ndarray
    low: np.ndarray
    excused: np.ndarray
    pair_answer: np.ndarray
    pair_truth: np.ndarray
    pair_overlap: np.ndarray


class KittiEvaluator:
    """KITTI's AP of detections on one set of images; the ground truth is prepared once.

    Objects may have `truncated` and `occluded` (0 where they are left out) and `height` of the whole box in pixels (the
    box's). Crowds are regions without labels, but those of another `type` than DontCare, which are neighbours.
    Categories `Van` and `Person_sitting` are neighbours of `Car` and `Pedestrian`, too.

    Args:
        coco: a pycocotools COCO with the ground truth.
        image_ids: the images that count.

    Raises:
        UserError: no category is one of KITTI's evaluated classes.
    """

    def __init__(self, coco: Any, image_ids: Sequence[int]) -> None:
        self._images = np.unique(np.asarray(image_ids, dtype=np.int64))
        named = {str(category["name"]).strip().lower(): key for key, category in sorted(coco.cats.items())}
        self._categories = {name: named[name.lower()] for name in OVERLAPS if name.lower() in named}
        if not self._categories:
            raise UserError(
                f"--metric kitti evaluates {', '.join(OVERLAPS)}, and the data have none of them; give another --metric"
            )
        self._truths = {name: self._truths_of(coco, name, named) for name in self._categories}

    def _truths_of(self, coco: Any, name: str, named: dict[str, int]) -> _Truths:
        own, neighbour = self._categories[name], named.get(NEIGHBOURS.get(name, "").lower())
        boxes, images, left_out, counts = [], [], [], []
        regions: list[list[float]] = []
        for place, image in enumerate(self._images.tolist()):
            before = len(regions)
            for truth in coco.imgToAnns.get(image, ()):
                if truth["category_id"] not in (own, neighbour):
                    continue
                crowd = bool(truth.get("iscrowd", 0))
                if crowd and truth.get("type", IGNORED_REGION) == IGNORED_REGION:
                    if truth["category_id"] == own:
                        regions.append(truth["bbox"])
                    continue
                beside = crowd or truth["category_id"] == neighbour
                boxes.append(truth["bbox"])
                images.append(place)
                left_out.append([beside or not _in_level(truth, level) for level in LEVELS])
            counts.append(len(regions) - before)
        return _Truths(
            np.array(images, dtype=np.int64),
            np.array(boxes, dtype=np.float64).reshape(-1, 4),
            np.array(left_out, dtype=bool).reshape(-1, len(LEVELS)).T,
            np.array(counts, dtype=np.int64),
            np.array(regions, dtype=np.float64).reshape(-1, 4),
        )

    def ap(self, found: Found) -> float:
        """The mean over the classes of the AP by 40 points at the level `moderate`; -1 where nothing is to be found."""
        number = [level.name for level in LEVELS].index("moderate")
        detections = self._known(found)
        values = [_by_40_points(self._precision(name, number, detections)) for name in self._categories]
        return mean_known(np.array(values))

    def accuracy(self, found: Found) -> Accuracy:
        """`NAMES`, of every class and as means over the classes; AP is the one that KITTI's tables are sorted by."""
        detections = self._known(found)
        per_class: dict[str, dict[str, float]] = {}
        for name in self._categories:
            curves = [self._precision(name, number, detections) for number in range(len(LEVELS))]
            values = [summed(curve) for summed in (_by_40_points, _by_11_points) for curve in curves]
            per_class[name] = dict(zip(NAMES[1:], values, strict=True))
        means = {each: mean_known(np.array([of[each] for of in per_class.values()])) for each in NAMES[1:]}
        return Accuracy({"AP": means[RANKED], **means}, {name: of[RANKED] for name, of in per_class.items()}, per_class)

    def _known(self, found: Found) -> Detections:
        detections = as_detections(found)
        if not len(self._images):
            return detections[:0]
        return detections[positions(self._images, detections.image_ids)[1]]

    def _precision(self, name: str, level: int, detections: Detections) -> np.ndarray | None:
        """Precision `[POINTS]` that never rises, 0 beyond the greatest recall; None where nothing is to be found."""
        truths = self._truths[name]
        left_out = truths.left_out[level]
        objects = int((~left_out).sum())
        if not objects:
            return None
        answers = self._answers(name, LEVELS[level], detections)
        _, right = _chosen(truths, answers, left_out, None)
        scores = _thresholds(answers.score[right[:, 0]], objects)
        taken, right = _chosen(truths, answers, left_out, scores)
        wrong = (answers.score[:, None] >= scores) & ~taken & ~(answers.low | answers.excused)[:, None]
        hits, misses = right.sum(0), wrong.sum(0)
        precision = np.zeros(POINTS)
        precision[: len(scores)] = hits / np.maximum(hits + misses, 1)
        return np.maximum.accumulate(precision[::-1])[::-1]

    def _answers(self, name: str, level: Level, detections: Detections) -> _Answers:
        truths, least = self._truths[name], OVERLAPS[name]
        # The development kit cuts a detection's height to whole pixels, and lets low ones of any class be chosen.
        low = np.floor(detections.boxes[:, 3]) < level.height
        some = np.flatnonzero(low | (detections.category_ids == self._categories[name]))
        box, image = detections.boxes[some], positions(self._images, detections.image_ids[some])[0]
        answer, truth = pairs(image, np.bincount(truths.image, minlength=len(self._images)))
        shared = _shared(box[answer], truths.box[truth])
        overlap = shared / (_area(box[answer]) + _area(truths.box[truth]) - shared)
        near = overlap > least
        answer, truth, overlap = answer[near], truth[near], overlap[near]
        order = np.lexsort((answer, truth))
        inside, region = pairs(image, truths.region_count)
        covered = _shared(box[inside], truths.region_box[region]) > least * _area(box[inside])
        excused = np.zeros(len(some), dtype=bool)
        excused[inside[covered]] = True
        return _Answers(box, detections.scores[some], low[some], excused, answer[order], truth[order], overlap[order])


def _chosen(
    truths: _Truths, answers: _Answers, left_out: np.ndarray, scores: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The detections that the objects choose, those of each image one after another.

    Args:
        truths: the objects.
        answers: the detections.
        left_out: [G] objects that need not be found.
        scores: [T] the lowest that may be chosen; an object then chooses the greatest overlap, and one that is too low
            only where there is no other. None: all may be, and an object chooses the highest score.

    Returns:
        Which detections are chosen, and which of them are right: bool `[D, T]` each, or `[D, 1]`.
    """
    width = 1 if scores is None else len(scores)
    taken = np.zeros((len(answers.score), width), dtype=bool)
    right = np.zeros_like(taken)
    allowed = np.ones_like(taken) if scores is None else answers.score[:, None] >= scores
    if scores is None:
        ranks = np.argsort(np.argsort(-answers.score, kind="stable"), kind="stable")
        worth = 1.0 + len(ranks) - ranks[answers.pair_answer]  # [P]; above 0, and all different
    else:
        worth = np.where(answers.low[answers.pair_answer], 0.5, 1 + answers.pair_overlap)
    choosers, first, count = np.unique(answers.pair_truth, return_index=True, return_counts=True)
    turn = np.arange(len(choosers)) - np.searchsorted(truths.image[choosers], truths.image[choosers])
    by_turn = np.argsort(turn, kind="stable")
    for now in np.split(by_turn, np.cumsum(np.bincount(turn))[:-1]) if len(turn) else ():
        slot = np.arange(count[now].max())
        pair = np.minimum(first[now, None] + slot, len(worth) - 1)  # [n, slots]
        answer = answers.pair_answer[pair]
        free = allowed[answer] & ~taken[answer] & (slot < count[now, None])[..., None]  # [n, slots, T]
        value = np.where(free, worth[pair][..., None], 0.0)
        best = value.argmax(1)  # [n, T]; of equal ones the first
        n, t = np.nonzero(value.max(1) > 0)
        winner = answer[n, best[n, t]]
        taken[winner, t] = True
        right[winner, t] = ~left_out[choosers[now][n]] & ~answers.low[winner]
    return taken, right


def _thresholds(scores: np.ndarray, objects: int) -> np.ndarray:
    """The scores, from the highest down, at which recall comes closest to 0, 1/40, 2/40 ..."""
    falling = np.sort(scores)[::-1]
    recall, picked = 0.0, []
    for number, score in enumerate(falling.tolist(), start=1):
        last = number == len(falling)
        here, following = number / objects, (number if last else number + 1) / objects
        if not last and following - recall < recall - here:
            continue
        picked.append(score)
        recall += 1 / (POINTS - 1)
    return np.array(picked[:POINTS])


def _in_level(truth: dict[str, Any], level: Level) -> bool:
    height = truth.get("height", truth["bbox"][3])
    hidden, cut = truth.get("occluded", 0), truth.get("truncated", 0)
    return bool(height >= level.height and hidden <= level.occluded and cut <= level.truncated)


def _by_40_points(precision: np.ndarray | None) -> float:
    """The rule since 2019: recall 0 does not count."""
    return -1.0 if precision is None else float(precision[1:].sum() / (POINTS - 1))


def _by_11_points(precision: np.ndarray | None) -> float:
    return -1.0 if precision is None else float(precision[::4].sum() / 11)


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The area that boxes `[N, 4]` xywh share, one by one."""
    size = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    return size.clip(min=0).prod(axis=1)


def _area(box: np.ndarray) -> np.ndarray:
    return box[:, 2:].prod(axis=1)
