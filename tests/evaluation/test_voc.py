import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.voc import VocEvaluator

from ..helpers.voc_twin import VocObject, area, eleven_points, voc_curve
from .random_coco import make_coco, random_coco

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "goldens" / "voc_eval.json").read_text())
CLASSES, IMAGES = GOLDEN["classes"], [int(image) for image in GOLDEN["images"]]


def golden_coco():
    """The published numbers' ground truth: boxes of pixels that count from 1."""
    annotations = []
    for image, objects in GOLDEN["ground_truth"].items():
        for each in objects:
            left, top, right, bottom = each["bbox"]
            annotations.append(
                {
                    "image_id": int(image),
                    "category_id": CLASSES.index(each["name"]) + 1,
                    "bbox": [left - 1, top - 1, right - left + 1, bottom - top + 1],
                    "difficult": each["difficult"],
                }
            )
    coco = make_coco(annotations, IMAGES, list(range(1, len(CLASSES) + 1)))
    for category, name in zip(coco.dataset["categories"], CLASSES, strict=True):
        category["name"] = name
    return coco


def golden_detections():
    rows = []
    for name, found in GOLDEN["detections"].items():
        for image, score, left, top, right, bottom in found:
            box = [left, top, right - left, bottom - top]
            rows.append({"image_id": int(image), "category_id": CLASSES.index(name) + 1, "bbox": box, "score": score})
    return Detections.from_rows(rows)


@pytest.mark.parametrize(
    ("eleven", "mean", "each"), [(True, "mean_ap_11_point", "ap_11_point"), (False, "mean_ap_area", "ap_area")]
)
def test_the_published_ap_is_held_to_a_billionth(eleven, mean, each):
    accuracy = VocEvaluator(golden_coco(), IMAGES, eleven).accuracy(golden_detections())
    assert accuracy.scores["AP"] == pytest.approx(GOLDEN[mean], abs=1e-9)
    expected = {name: told[each] for name, told in GOLDEN["expected"].items()}
    assert accuracy.per_class == pytest.approx(expected, abs=1e-9)


def test_published_recall_and_precision_are_held_after_every_detection():
    curves = VocEvaluator(golden_coco(), IMAGES, True).curves(golden_detections())
    for name, curve in zip(CLASSES, curves, strict=True):
        assert curve.recall == pytest.approx(GOLDEN["expected"][name]["recall"], abs=1e-9)
        assert curve.precision == pytest.approx(GOLDEN["expected"][name]["precision"], abs=1e-9)


@pytest.mark.parametrize("overlap", GOLDEN["ap_11_point_at_overlap"])
def test_other_overlaps_give_the_published_ap_too(overlap):
    evaluator = VocEvaluator(golden_coco(), IMAGES, True, float(overlap))
    expected = GOLDEN["ap_11_point_at_overlap"][overlap]
    assert evaluator.accuracy(golden_detections()).per_class == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 8), st.sampled_from([0, 1, 30]))
@settings(max_examples=60, deadline=None)
def test_both_aps_are_those_of_plain_loops(seed, images, truths, answers):
    coco, rows = random_coco(seed, images=images, truths=truths, answers=answers, classes=3)
    draw = np.random.default_rng(seed)
    for annotation in coco.dataset["annotations"]:
        annotation["difficult"] = int(draw.random() < 0.2)
    curves = VocEvaluator(coco, coco.getImgIds(), True).curves(rows)
    for category, curve in zip(sorted(coco.getCatIds()), curves, strict=True):
        objects = {image: [] for image in coco.getImgIds()}
        for truth in coco.dataset["annotations"]:
            if truth["category_id"] == category:
                x, y, w, h = truth["bbox"]
                spared = bool(truth["difficult"] or truth["iscrowd"])
                objects[truth["image_id"]].append(VocObject((x + 1, y + 1, x + w, y + h), spared))
        found = [
            (row["image_id"], row["score"], (x, y, x + w, y + h))
            for row in rows
            for x, y, w, h in [row["bbox"]]
            if row["category_id"] == category
        ]
        recall, precision = voc_curve(objects, found)
        if curve.objects:
            assert curve.recall.tolist() == pytest.approx(recall)
            assert curve.eleven_points == pytest.approx(eleven_points(recall, precision))
            assert curve.area == pytest.approx(area(recall, precision))
        else:
            assert curve.eleven_points == curve.area == -1


def test_without_objects_there_is_nothing_to_measure_and_without_detections_the_ap_is_0():
    coco = make_coco([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}], [1, 2], [1, 2])
    assert VocEvaluator(coco, [1, 2], True).accuracy([]).per_class == {"class 1": 0, "class 2": -1}
    assert VocEvaluator(coco, [2], False).ap([]) == -1
    assert VocEvaluator(coco, [], False).ap([]) == -1
