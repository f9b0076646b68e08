"""The line that says why nothing is found names the cause."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.nothing import doubt, why_nothing


def truth(objects: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image, "height": 100, "width": 100} for image in (1, 2)],
        "categories": [{"id": number, "name": name} for number, name in enumerate("abcdef", 1)],
        "annotations": [{"id": number, "area": 400, **each} for number, each in enumerate(objects, 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


TRUTHS = [{"image_id": i, "category_id": c, "bbox": [10 * c, 10, 20, 20], "iscrowd": 0} for i in (1, 2) for c in (1, 2)]


def detections(category: int = 0, score: float = 0.9, shift: float = 0.0) -> Detections:
    rows = [
        {
            "image_id": each["image_id"],
            "category_id": each["category_id"] + category,
            "bbox": list(np.add(each["bbox"], [shift, 0, 0, 0])),
            "score": score,
        }
        for each in TRUTHS
    ]
    return Detections.from_rows(rows)


@pytest.mark.parametrize(
    ("objects", "found", "words"),
    [
        ([], detections(), ["the 2 images have no boxes to find"]),
        ([each | {"iscrowd": 1} for each in TRUTHS], detections(), ["the 2 images have no boxes to find"]),
        (
            TRUTHS,
            Detections.from_rows(()),
            ["4 boxes in 2 images, of a (1), b (2)", "there is none at all", "untrained"],
        ),
        (TRUTHS, detections(score=0.04), ["0 detections with a score of at least 0.3 (the highest is 0.04)"]),
        (
            TRUTHS,
            detections(category=2),
            ["of c (3), d (4)", "an AP of 1.0000: the category ids of the data mean other"],
        ),
        (TRUTHS, detections(category=90), ["of class 91, class 92"]),
        (TRUTHS, detections(shift=50), ["they lie elsewhere, whatever their classes (AP 0.0000)"]),
    ],
)
def test_the_cause_is_named_with_the_numbers_that_tell(
    objects: list[dict[str, Any]], found: Detections, words: list[str]
) -> None:
    line = why_nothing(truth(objects), [1, 2], found)
    for each in words:
        assert each in line


def test_classes_that_are_mixed_up_raise_a_doubt_and_bad_boxes_do_not() -> None:
    assert "the boxes alone, whatever their classes, 1.0000" in str(doubt(truth(TRUTHS), [1, 2], detections(2), 0.01))
    assert doubt(truth(TRUTHS), [1, 2], detections(shift=50), 0.01) is None
    assert doubt(truth(TRUTHS), [1, 2], detections(), 0.6) is None
