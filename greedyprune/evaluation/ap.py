"""COCO average precision: pycocotools' numbers, from it or from evaluators that give the same."""

import contextlib
import importlib.util
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from greedyprune.errors import UserError
from greedyprune.evaluation.accuracy import mean_known, unique_names
from greedyprune.evaluation.detections import Found, as_detections
from greedyprune.evaluation.vectorized import IOU_THRESHOLDS, CocoEvaluator

AP_NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
AR_NAMES = ("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")
BACKENDS = ("auto", "pycocotools", "faster", "arrays")


def coco_ap(coco: Any, found: Found, image_ids: Sequence[int], backend: str = "auto") -> dict[str, Any]:
    """The twelve COCO numbers for boxes, and the AP of every class.

    Args:
        coco: a pycocotools COCO with the ground truth; it is not changed.
        found: Detections, or COCO result rows; those of other images do not count.
        image_ids: the images to evaluate on.
        backend: `pycocotools`; `faster` (faster-coco-eval: the same to the last bit or two); `arrays`
            (`CocoEvaluator`: the same bits); or `auto`: faster-coco-eval where it is installed, else pycocotools.

    Returns:
        `AP, AP50, AP75, AP_small, AP_medium, AP_large, AR1, AR10, AR100, AR_small, AR_medium, AR_large` in 0..1, and
        `per_class`: category name -> AP (mean over IoU, all areas, 100 detections). Where no ground truth counts, -1.

    Raises:
        UserError: an unknown backend, or one that is not installed.
    """
    if backend not in BACKENDS:
        raise UserError(f"evaluation backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    installed = importlib.util.find_spec("faster_coco_eval") is not None
    if backend == "faster" and not installed:
        raise UserError("evaluation backend 'faster' needs faster-coco-eval: pip install faster-coco-eval")
    if backend == "arrays":
        precision, recall = CocoEvaluator(coco, image_ids).curves(found)
    else:
        faster = backend == "faster" or (backend == "auto" and installed)
        precision, recall = _reference(coco, found, image_ids, faster)
    return {**_summary(precision, recall), "per_class": _per_class(coco, precision)}


def _reference(coco: Any, found: Found, image_ids: Sequence[int], faster: bool) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of pycocotools or faster-coco-eval; silent, and on copies, as both write to their input."""
    kind: Any = COCOeval
    if faster:
        from faster_coco_eval import COCOeval_faster

        kind = COCOeval_faster
    # Numbered from 1: neither finds an annotation with id 0, and faster-coco-eval finds none from 2^63 on, and mixes up
    # images and categories beyond 2^53.
    images = {image: number for number, image in enumerate(sorted(set(image_ids)), start=1)}
    categories = {category: number for number, category in enumerate(sorted(coco.getCatIds()), start=1)}
    keys = ("image_id", "category_id", "bbox", "area")
    truths = [
        {**{key: truth[key] for key in keys}, "iscrowd": int(truth.get("iscrowd", 0))}
        for image in images
        for truth in coco.imgToAnns.get(image, ())
    ]
    answers = [{**row, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0} for row in as_detections(found).rows()]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = kind(_index(images, categories, truths), _index(images, categories, answers), "bbox")
        evaluation.params.imgIds = list(images.values())
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _index(images: Mapping[int, int], categories: Mapping[int, int], boxes: Iterable[dict[str, Any]]) -> COCO:
    """An index of annotations or detections.

    Args:
        images: from id to number.
        categories: the same.
        boxes: by their images' and categories' ids; those of others are left out.
    """
    known = [box for box in boxes if box["image_id"] in images and box["category_id"] in categories]
    indexed = COCO()
    indexed.dataset = {
        "images": [{"id": number} for number in images.values()],
        "categories": [{"id": number} for number in categories.values()],
        "annotations": [
            {
                **box,
                "id": number,
                "image_id": images[box["image_id"]],
                "category_id": categories[box["category_id"]],
            }
            for number, box in enumerate(known, start=1)
        ],
    }
    indexed.createIndex()
    return indexed


def _summary(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """The numbers of `COCOeval.summarize` from precision `[T, R, K, A, M]` and recall `[T, K, A, M]`."""
    at = {"AP50": np.flatnonzero(IOU_THRESHOLDS == 0.5), "AP75": np.flatnonzero(IOU_THRESHOLDS == 0.75)}
    areas = {"small": 1, "medium": 2, "large": 3}
    limits = {"AR1": 0, "AR10": 1}
    numbers = {}
    for name in AP_NAMES:
        area = areas.get(name.removeprefix("AP_"), 0)
        numbers[name] = mean_known(precision[at.get(name, slice(None))][..., area, -1])
    for name in AR_NAMES:
        numbers[name] = mean_known(recall[..., areas.get(name.removeprefix("AR_"), 0), limits.get(name, -1)])
    return numbers


def _per_class(coco: Any, precision: np.ndarray) -> dict[str, float]:
    ids = sorted(coco.getCatIds())
    names = unique_names(coco.loadCats(ids))
    return {name: mean_known(precision[:, :, k, 0, -1]) for k, name in enumerate(names)}
