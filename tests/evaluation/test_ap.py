import contextlib
import copy
import io
import json

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from greedyprune.errors import UserError
from greedyprune.evaluation.accuracy import unique_names
from greedyprune.evaluation.ap import AP_NAMES, AR_NAMES, coco_ap

from .random_coco import make_coco, random_coco

BACKENDS = ("pycocotools", "faster", "arrays")
HARD = ({}, {"crowds": 0.6}, {"images": 3, "answers": 350, "truths": 25}, {"classes": 2, "truths": 1}, {"images": 1})


def reference(coco, rows, image_ids):
    """pycocotools used as its own documentation does."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(rows)), "bbox")
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def twelve(result):
    return [result[name] for name in (*AP_NAMES, *AR_NAMES)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(len(HARD)))
def test_the_twelve_numbers_are_those_of_pycocotools(backend, seed):
    coco, rows = random_coco(seed, **HARD[seed])
    expected = reference(coco, rows, coco.getImgIds())
    result = coco_ap(coco, rows, coco.getImgIds(), backend)
    assert twelve(result) == pytest.approx(expected.stats.tolist(), abs=1e-12, rel=0)
    if backend != "faster":
        assert twelve(result) == expected.stats.tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_per_class_ap_is_the_mean_over_iou_and_recall(backend):
    coco, rows = random_coco(11)
    precision = reference(coco, rows, coco.getImgIds()).eval["precision"]
    per_class = coco_ap(coco, rows, coco.getImgIds(), backend)["per_class"]
    assert list(per_class) == ["class 2", "class 7", "class 12", "class 17"]
    for k, value in enumerate(list(per_class.values())[:-1]):
        assert value == pytest.approx(precision[:, :, k, 0, 2].mean(), abs=1e-12)
    assert per_class["class 17"] == -1


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_images_asked_for_count(backend):
    coco, rows = random_coco(5)
    some = coco.getImgIds()[3:9]
    expected = reference(coco, rows, some)
    assert twelve(coco_ap(coco, rows, some, backend)) == pytest.approx(expected.stats.tolist(), abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detection_at_all_gives_zeros(backend):
    box = [10.0, 10.0, 40.0, 40.0]
    coco = make_coco([{"image_id": 1, "category_id": 3, "bbox": box}], [1, 2], [3, 4])
    result = coco_ap(coco, [], [1, 2], backend)
    assert (result["AP"], result["AP_medium"], result["AR100"]) == (0, 0, 0)
    assert (result["AP_small"], result["AP_large"]) == (-1, -1)
    assert result["per_class"] == {"class 3": 0, "class 4": -1}


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_without_ground_truth_give_minus_one_and_never_nan(backend):
    coco = make_coco([], [1, 2], [3])
    rows = [{"image_id": 1, "category_id": 3, "bbox": [1.0, 1.0, 5.0, 5.0], "score": 0.5}]
    result = coco_ap(coco, rows, [1, 2], backend)
    assert set(twelve(result)) == {-1}
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hand_made_boxes_give_the_ap_worked_out_by_hand(backend):
    """Two objects; found in order: one of them at IoU 0.64, nothing, the other one exactly."""
    coco = make_coco(
        [
            {"image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 50.0, 50.0]},
            {"image_id": 1, "category_id": 1, "bbox": [60.0, 60.0, 50.0, 50.0]},
        ],
        [1],
        [1],
    )
    rows = [
        {"image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 40.0, 40.0], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [120.0, 0.0, 20.0, 20.0], "score": 0.8},
        {"image_id": 1, "category_id": 1, "bbox": [60.0, 60.0, 50.0, 50.0], "score": 0.7},
    ]
    result = coco_ap(coco, rows, [1], backend)
    # IoU 0.50-0.60: precision 1 up to recall 0.5 (51 of 101 thresholds), then 2/3. From 0.65: 1/3 up to recall 0.5.
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 3 / 101
    assert result["AP50"] == pytest.approx(low)
    assert result["AP75"] == pytest.approx(high)
    assert result["AP"] == pytest.approx((3 * low + 7 * high) / 10)
    assert result["AR1"] == pytest.approx(0.5 * 3 / 10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_crowd_takes_any_number_of_detections_and_costs_nothing(backend):
    coco = make_coco(
        [
            {"image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 100.0, 100.0], "iscrowd": 1},
            {"image_id": 1, "category_id": 1, "bbox": [110.0, 110.0, 40.0, 40.0]},
        ],
        [1],
        [1],
    )
    inside = [[float(x), float(y), 20.0, 20.0] for x in (0, 30, 60) for y in (0, 30, 60)]
    rows = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in inside]
    rows.append({"image_id": 1, "category_id": 1, "bbox": [110.0, 110.0, 40.0, 40.0], "score": 0.1})
    assert coco_ap(coco, rows, [1], backend)["AP"] == pytest.approx(1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ground_truth_with_id_0_is_found_as_any_other_which_pycocotools_alone_cannot(backend):
    box = [10.0, 10.0, 40.0, 40.0]
    coco = make_coco([{"id": 0, "image_id": 1, "category_id": 1, "bbox": box}], [1], [1])
    rows = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9}]
    assert reference(coco, rows, [1]).stats[0] == 0
    assert coco_ap(coco, rows, [1], backend)["AP"] == pytest.approx(1)


def renumbered(coco, rows, image=lambda id: id, category=lambda id: id, annotation=lambda id: id):
    """The same ground truth and detections by other ids."""
    names = {"image_id": image, "category_id": category, "id": annotation}

    def other(entry):
        return {**entry, **{key: names[key](entry[key]) for key in names if key in entry}}

    with_ids = make_coco(
        [other(entry) for entry in coco.dataset["annotations"]],
        [image(entry["id"]) for entry in coco.dataset["images"]],
        [category(entry["id"]) for entry in coco.dataset["categories"]],
    )
    return with_ids, [other(row) for row in rows]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "ids",
    [
        {"image": lambda id: 2**53 + id},
        {"image": lambda id: 2**63 - 1000 + id},
        {"image": lambda id: id - 5000},
        {"image": lambda id: 2**60 + id},
        {"category": lambda id: 2**60 + id},
        {"annotation": lambda id: 2**63 + id},
        {"annotation": lambda id: 10**30 + id},
        {"annotation": lambda id: id - 3},
    ],
)
def test_ids_of_any_size_give_the_same_numbers(backend, ids):
    coco, rows = random_coco(3, images=8)
    expected = coco_ap(coco, rows, coco.getImgIds(), backend)
    assert twelve(expected) == pytest.approx(reference(coco, rows, coco.getImgIds()).stats.tolist(), abs=1e-12)
    other, other_rows = renumbered(coco, rows, **ids)
    result = coco_ap(other, other_rows, other.getImgIds(), backend)
    assert twelve(result) == twelve(expected)
    assert list(result["per_class"].values()) == list(expected["per_class"].values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_images_at_all_give_minus_one(backend):
    coco, rows = random_coco(3, images=2)
    assert set(twelve(coco_ap(coco, rows, [], backend))) == {-1}
    assert set(twelve(coco_ap(make_coco([], [], []), [], [], backend))) == {-1}


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_printed_and_nothing_that_was_given_is_changed(backend, capsys):
    coco, rows = random_coco(2, images=3)
    before = copy.deepcopy((coco.dataset, rows))
    coco_ap(coco, rows, coco.getImgIds(), backend)
    assert (coco.dataset, rows) == before
    assert capsys.readouterr() == ("", "")


def test_a_category_name_used_twice_keeps_both_classes_apart():
    coco = make_coco([{"image_id": 1, "category_id": 3, "bbox": [0.0, 0.0, 9.0, 9.0]}], [1], [3, 4])
    for category in coco.dataset["categories"]:
        category["name"] = "thing"
    assert list(coco_ap(coco, [], [1])["per_class"]) == ["thing (3)", "thing (4)"]


def test_a_category_that_is_called_as_another_one_is_told_apart_is_kept_too():
    names = unique_names([{"id": 3, "name": "a"}, {"id": 4, "name": "a"}, {"id": 5, "name": "a (3)"}])
    assert names == ["a (3) (3)", "a (4)", "a (3) (5)"]


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'slow' is unknown; choose one of auto, pycocotools"):
        coco_ap(make_coco([], [1], [1]), [], [1], "slow")


def test_auto_gives_the_same_numbers_as_pycocotools():
    coco, rows = random_coco(8)
    expected = reference(coco, rows, coco.getImgIds()).stats
    np.testing.assert_allclose(twelve(coco_ap(coco, rows, coco.getImgIds())), expected, rtol=0, atol=1e-12)
