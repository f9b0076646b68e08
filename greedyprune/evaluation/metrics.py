"""The metrics that detectors are measured by, and that a search can hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from greedyprune.errors import UserError
from greedyprune.evaluation import kitti
from greedyprune.evaluation.accuracy import Accuracy
from greedyprune.evaluation.ap import AP_NAMES, AR_NAMES, coco_ap
from greedyprune.evaluation.detections import Found
from greedyprune.evaluation.vectorized import CocoEvaluator
from greedyprune.evaluation.voc import VocEvaluator
from greedyprune.ranges import shown

COCO = "coco"


class ApEvaluator(Protocol):
    """Scores detections against one set of images, whose ground truth it has prepared."""

    def ap(self, found: Found) -> float:
        """The number that a search holds, in 0..1; -1 where there is nothing to measure on."""
        ...


@dataclass(frozen=True)
class Metric:
    """A way to score detections.

    Attributes:
        title: heads tables.
        names: of its numbers; the first is `AP`, which a search holds.
        evaluator: from a pycocotools COCO and image ids to what measures AP, again and again.
        accuracy: from a COCO, image ids, detections and a backend (see `coco_ap`) to all numbers.
    """

    title: str
    names: tuple[str, ...]
    evaluator: Callable[[Any, Sequence[int]], ApEvaluator]
    accuracy: Callable[[Any, Sequence[int], Found, str], Accuracy]


def metric_of(name: str) -> Metric:
    """The metric of a name.

    Raises:
        UserError: there is none.
    """
    if name not in METRICS:
        raise UserError(f"metric {shown(name)} is unknown; choose one of {', '.join(METRICS)}")
    return METRICS[name]


def _coco(coco: Any, image_ids: Sequence[int], found: Found, backend: str) -> Accuracy:
    numbers = coco_ap(coco, found, image_ids, backend)
    return Accuracy({name: numbers[name] for name in (*AP_NAMES, *AR_NAMES)}, numbers["per_class"])


def _voc(title: str, eleven_points: bool) -> Metric:
    evaluator = partial(VocEvaluator, eleven_points=eleven_points)
    return Metric(title, ("AP",), evaluator, lambda coco, ids, found, backend: evaluator(coco, ids).accuracy(found))


METRICS = {
    COCO: Metric("COCO boxes", (*AP_NAMES, *AR_NAMES), CocoEvaluator, _coco),
    "voc07": _voc("VOC2007, 11 points, overlap above 0.5", True),
    "voc10": _voc("VOC2010, area, overlap above 0.5", False),
    "kitti": Metric(
        "KITTI 2D boxes; AP is AP40_moderate",
        kitti.NAMES,
        kitti.KittiEvaluator,
        lambda coco, ids, found, backend: kitti.KittiEvaluator(coco, ids).accuracy(found),
    ),
}
