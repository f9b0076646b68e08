import contextlib
import copy
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.cocoeval import COCOeval

from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.vectorized import CocoEvaluator

from .random_coco import make_coco, random_coco


def reference(coco, rows):
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(rows)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(0, 12), st.sampled_from([1, 20, 130]))
@settings(max_examples=40, deadline=None)
def test_precision_and_recall_are_bit_for_bit_those_of_pycocotools(seed, images, truths, answers):
    coco, rows = random_coco(seed, images=images, truths=truths, answers=answers, classes=3)
    expected = reference(coco, rows).eval
    precision, recall = CocoEvaluator(coco, coco.getImgIds()).curves(rows)
    assert np.array_equal(precision, expected["precision"])
    assert np.array_equal(recall, expected["recall"])


boxes = st.lists(st.sampled_from([0.0, 16.0, 32.0]), min_size=2, max_size=2).flatmap(
    lambda corner: st.lists(st.sampled_from([16.0, 32.0, 48.0]), min_size=2, max_size=2).map(lambda size: corner + size)
)


@given(
    st.lists(st.tuples(boxes, st.booleans()), max_size=6),
    st.lists(st.tuples(boxes, st.sampled_from([0.1, 0.5, 0.9])), min_size=1, max_size=12),
)
@settings(max_examples=150, deadline=None)
def test_ties_of_overlap_and_score_are_broken_as_pycocotools_does(truths, answers):
    coco = make_coco(
        [{"image_id": 1, "category_id": 1, "bbox": box, "iscrowd": int(crowd)} for box, crowd in truths], [1], [1]
    )
    rows = [{"image_id": 1, "category_id": 1, "bbox": box, "score": score} for box, score in answers]
    expected = reference(coco, rows).eval
    precision, recall = CocoEvaluator(coco, [1]).curves(rows)
    assert np.array_equal(precision, expected["precision"])
    assert np.array_equal(recall, expected["recall"])


def test_the_ap_alone_is_the_first_of_the_twelve_numbers():
    coco, rows = random_coco(1)
    evaluator = CocoEvaluator(coco, coco.getImgIds())
    assert evaluator.ap(rows) == reference(coco, rows).stats[0]
    assert evaluator.ap(Detections.from_rows(rows)) == reference(coco, rows).stats[0]


@pytest.mark.parametrize("row", [{"image_id": 99}, {"category_id": 99}])
def test_detections_of_unknown_images_and_categories_do_not_count(row):
    box = [10.0, 10.0, 40.0, 40.0]
    coco = make_coco([{"image_id": 1, "category_id": 1, "bbox": box}], [1], [1])
    right = {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5}
    assert CocoEvaluator(coco, [1]).ap([{**right, "score": 0.9, **row}, right]) == pytest.approx(1)


def test_evaluating_again_starts_afresh():
    coco, rows = random_coco(4)
    evaluator = CocoEvaluator(coco, coco.getImgIds())
    first = evaluator.ap(rows)
    evaluator.ap(rows[: len(rows) // 2])
    assert evaluator.ap(rows) == first
