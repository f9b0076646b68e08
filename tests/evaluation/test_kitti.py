import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greedyprune import UserError
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.kitti import LEVELS, KittiEvaluator

from ..helpers.kitti_twin import Answer, Label, kitti_ap
from .random_coco import make_coco

CLASSES = ("Car", "Pedestrian", "Cyclist")
TYPES = (*CLASSES, "Van", "Person_sitting", "Truck", "DontCare")


def random_frames(seed, images, labels, answers):
    """Labels with all that decides about a level, and answers near them, low ones and equal scores among them."""
    draw = np.random.default_rng(seed)
    frames = []
    for _ in range(images):
        given, made = [], []
        for _ in range(draw.integers(0, labels + 1)):
            left, top = draw.uniform(0, 60, 2)
            width, height = draw.uniform(20, 90), draw.choice([draw.uniform(18, 60), 25.0, 40.0])
            box = (float(left), float(top), float(left + width), float(top + height))
            truncated = float(draw.choice([0, 0.15, 0.2, 0.3, 0.6]))
            given.append(Label(str(draw.choice(TYPES)), box, truncated, int(draw.integers(0, 4))))
        for _ in range(draw.integers(0, answers + 1)):
            around = given[draw.integers(len(given))] if given and draw.random() < 0.8 else None
            box = (0.0, 0.0, 70.0, 45.0) if around is None else around.box
            kind = around.type if around is not None and draw.random() < 0.8 else str(draw.choice(TYPES))
            moved = np.array(box) + draw.normal(0, 2, 4) * (draw.random() < 0.8)
            corners = (*np.minimum(moved[:2], moved[2:] - 1), *moved[2:])
            made.append(Answer(kind, tuple(map(float, corners)), round(float(draw.random()), 1)))
        frames.append((given, made))
    return frames


def coco_of(frames, own_categories=False):
    """As the converter writes it; with `own_categories` vans and sitting people keep their classes."""
    names = [*CLASSES, "Van", "Person_sitting"] if own_categories else [*CLASSES, "Truck"]
    beside = {"Van": "Car", "Person_sitting": "Pedestrian"}
    annotations = []
    for image, (labels, _) in enumerate(frames, start=1):
        for label in labels:
            crowd = label.type not in names
            listed = [label.type] if not crowd else [beside[label.type]] if label.type in beside else []
            for name in CLASSES if label.type == "DontCare" else listed:
                left, top, right, bottom = label.box
                annotations.append(
                    {
                        "image_id": image,
                        "category_id": names.index(name) + 1,
                        "bbox": [left, top, right - left, bottom - top],
                        "iscrowd": int(crowd),
                        "type": label.type,
                        "truncated": label.truncated,
                        "occluded": label.occluded,
                        "height": bottom - top,
                    }
                )
    coco = make_coco(annotations, list(range(1, len(frames) + 1)), list(range(1, len(names) + 1)))
    for category, name in zip(coco.dataset["categories"], names, strict=True):
        category["name"] = name
    return coco, names


def detections_of(frames, names):
    rows = []
    for image, (_, answers) in enumerate(frames, start=1):
        for answer in answers:
            left, top, right, bottom = answer.box
            category = names.index(answer.type) + 1 if answer.type in names else 99
            box = [left, top, right - left, bottom - top]
            rows.append({"image_id": image, "category_id": category, "bbox": box, "score": answer.score})
    return Detections.from_rows(rows)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 25]), st.integers(0, 7), st.integers(0, 12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_level_of_every_class_is_that_of_plain_loops(seed, images, labels, answers, own):
    frames = random_frames(seed, images, labels, answers)
    coco, names = coco_of(frames, own)
    evaluator = KittiEvaluator(coco, coco.getImgIds())
    found = detections_of(frames, names)
    accuracy = evaluator.accuracy(found)
    assert list(accuracy.class_scores) == list(CLASSES)
    known = []
    for name in CLASSES:
        for level in LEVELS:
            eleven, forty = kitti_ap(frames, name, level.name)
            assert accuracy.class_scores[name][f"AP11_{level.name}"] == pytest.approx(eleven)
            assert accuracy.class_scores[name][f"AP40_{level.name}"] == pytest.approx(forty)
            known += [forty] if level.name == "moderate" and forty > -1 else []
    assert evaluator.ap(found) == pytest.approx(np.mean(known) if known else -1)
    assert accuracy.scores["AP"] == evaluator.ap(found)


def test_a_perfect_detector_has_all_40_points():
    labels = [Label("Car", (10.0 * n, 0.0, 10.0 * n + 9, 50.0)) for n in range(80)]
    frames = [(labels, [Answer("Car", label.box, 1 - n / 100) for n, label in enumerate(labels)])]
    coco, names = coco_of(frames)
    accuracy = KittiEvaluator(coco, [1]).accuracy(detections_of(frames, names))
    assert accuracy.per_class == {"Car": 1, "Pedestrian": -1, "Cyclist": -1}
    assert accuracy.class_scores["Car"]["AP11_easy"] == pytest.approx(1)


def test_plain_coco_data_have_no_hidden_objects_and_their_crowds_are_regions():
    box = [5.0, 5.0, 50.0, 60.0]
    region = {"image_id": 1, "category_id": 1, "bbox": [100.0, 0.0, 90.0, 90.0], "iscrowd": 1}
    coco = make_coco([{"image_id": 1, "category_id": 1, "bbox": box}, region], [1], [1])
    coco.cats[1]["name"] = "car"
    rows = [
        {"image_id": 1, "category_id": 1, "bbox": [110.0, 5.0, 40.0, 40.0], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5},
    ]
    evaluator = KittiEvaluator(coco, [1])
    assert evaluator.accuracy(rows).class_scores["Car"]["AP11_hard"] == pytest.approx(1 / 11)  # one object, one recall
    outside = [{**rows[0], "bbox": [300.0, 5.0, 40.0, 40.0]}, rows[1]]
    assert evaluator.accuracy(outside).class_scores["Car"]["AP11_hard"] == pytest.approx(0.5 / 11)


def test_data_without_a_class_of_kitti_are_refused():
    coco = make_coco([], [1], [1])
    with pytest.raises(UserError, match="evaluates Car, Pedestrian, Cyclist, and the data have none"):
        KittiEvaluator(coco, [1])
