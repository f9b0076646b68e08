import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from greedyprune.data.coco import CocoDetection
from greedyprune.data.transforms import eval_transform
from greedyprune.errors import UserError
from greedyprune.evaluation.ap import AP_NAMES, AR_NAMES, coco_ap
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.draw import draw_pairs
from greedyprune.evaluation.evaluate import evaluate, subset_ids
from greedyprune.evaluation.metrics import METRICS
from greedyprune.evaluation.profile import WHOLE, count_flops, count_parameters
from greedyprune.evaluation.result import EvalResult
from greedyprune.evaluation.voc import VocEvaluator
from greedyprune.families.detr import DetrFamily

from ..helpers.made_up import evaluated
from .tiny_coco import CATEGORIES, tiny_model, write_tiny

KEYS = {
    *AP_NAMES,
    *AR_NAMES,
    "metric",
    "per_class",
    "params",
    "transformer_params",
    "flops",
    "transformer_flops",
    "parts",
    "latency_ms",
    "device",
    "threads",
    "dtype",
    "images",
    "image_seed",
    "image_size",
}


def test_a_subset_is_the_same_each_time_and_smaller_ones_lie_in_larger_ones():
    ids = [3 * number for number in range(100)]
    assert subset_ids(ids, 20, seed=1) == subset_ids(reversed(ids), 20, seed=1)
    assert set(subset_ids(ids, 20, seed=1)) < set(subset_ids(ids, 50, seed=1)) < set(ids)
    assert subset_ids(ids, 20, seed=1) != subset_ids(ids, 20, seed=2)
    assert subset_ids(ids, 20, seed=1) == sorted(subset_ids(ids, 20, seed=1))


@pytest.mark.parametrize("n", [0, 3, 4])
def test_none_or_more_than_there_are_means_all_images(n):
    assert subset_ids([5, 1, 3], n, seed=7) == [1, 3, 5]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = write_tiny(tmp_path_factory.mktemp("tiny"))
    return CocoDetection(root, "val", None, eval_transform(48, 96))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_the_result_holds_what_its_parts_measure(model, dataset):
    result = evaluate(model, dataset, latency_runs=2, batch_size=4)
    assert {**result.accuracy, "per_class": result.per_class} == coco_ap(
        dataset.coco, result.detections, dataset.image_ids
    )
    assert len(result.detections) == 6 * 18  # every (query, class) pair
    costs = {WHOLE: result.cost, **result.parts}
    assert {label: cost.params for label, cost in costs.items()} == count_parameters(DetrFamily(), model)
    assert result.image_size == (48, 64)
    flops = count_flops(DetrFamily(), DetrFamily().deployed(model, (48, 64)), (48, 64))
    assert {label: cost.flops for label, cost in costs.items()} == flops
    assert (result.images, result.image_seed, result.device, result.dtype) == (6, None, "cpu", "float32")
    assert result.threads == torch.get_num_threads()


def test_the_json_has_the_agreed_keys_and_finite_numbers_only(model, dataset):
    result = evaluate(model, dataset, latency_runs=2).to_json()
    assert set(result) == KEYS
    assert set(result["latency_ms"]) == {"median", "p95", "transformer_median", "transformer_p95"}
    assert set(result["per_class"]) == {"box", "disc"}
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert all(math.isfinite(result[name]) for name in (*AP_NAMES, *AR_NAMES))


def test_a_subset_is_recorded_with_its_size_and_seed(model, dataset):
    result = evaluate(model, dataset, images=2, seed=5, latency_runs=0)
    chosen = subset_ids(dataset.image_ids, 2, 5)
    assert (result.images, result.image_seed, result.cost.latency) == (2, 5, None)
    assert sorted(set(result.detections.image_ids.tolist())) == chosen
    assert result.accuracy["AP"] == coco_ap(dataset.coco, result.detections, chosen)["AP"]


def test_mixed_precision_is_recorded(model, dataset):
    assert evaluate(model, dataset, images=1, latency_runs=0, amp="bf16").dtype == "bfloat16"


def test_pictures_show_ground_truth_and_detections_side_by_side(model, dataset, tmp_path):
    found = evaluate(model, dataset, latency_runs=0).detections
    written = draw_pairs(dataset, found, dataset.image_ids[:2], tmp_path / "new" / "folder", min_score=0)
    assert [path.name for path in written] == ["1_10.png", "2_20.png"]
    for path in written:
        with Image.open(path) as picture:
            assert picture.width > 2 * 640
            assert picture.height > 480


def emptied(root, *keys):
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: [] for key in keys}))
    return CocoDetection(root, "val", tuple(CATEGORIES), eval_transform(48, 96))


@pytest.mark.parametrize("keys", [("annotations",), ("annotations", "categories")])
def test_where_there_is_nothing_to_find_the_numbers_are_minus_one(model, tmp_path, keys):
    result = evaluate(model, emptied(write_tiny(tmp_path), *keys), latency_runs=0).to_json()
    assert {result[name] for name in (*AP_NAMES, *AR_NAMES)} == {-1}
    assert set(result["per_class"].values()) <= {-1}


def test_a_data_set_without_images_is_refused(model, tmp_path):
    with pytest.raises(UserError, match=r"there are no images in .*val2017 to evaluate on"):
        evaluate(model, emptied(write_tiny(tmp_path), "annotations", "images"))


def test_pictures_are_of_images_as_training_sees_them_under_names_of_any_length(tmp_path):
    """An upright picture of a turned file, whose name is as long as names can be."""
    root = write_tiny(tmp_path, images=2)
    path = root / "annotations" / "instances_val2017.json"
    data, name = json.loads(path.read_text()), "x" * 250 + ".png"
    data["images"][0] |= {"width": 40, "height": 64, "file_name": name}
    path.write_text(json.dumps(data))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 40), "white").save(root / "val2017" / name, exif=exif)
    (written,) = draw_pairs(CocoDetection(root, "val"), Detections.from_rows(()), [10], tmp_path / "pictures")
    with Image.open(written) as picture:
        assert picture.height > picture.width / 2


def test_another_metric_scores_the_same_detections(model, dataset):
    coco, voc = (evaluate(model, dataset, latency_runs=0, metric=metric) for metric in ("coco", "voc07"))
    assert voc.detections.rows() == coco.detections.rows()
    expected = VocEvaluator(dataset.coco, dataset.image_ids, True).accuracy(coco.detections)
    assert (voc.accuracy, voc.per_class, voc.metric) == (expected.scores, expected.per_class, "voc07")
    assert EvalResult.from_json(json.loads(json.dumps(voc.to_json())), "a file") == replace(voc, detections=None)


def test_a_metric_of_classes_that_the_data_lack_is_refused(model, dataset):
    with pytest.raises(UserError, match="--metric kitti evaluates Car"):
        evaluate(model, dataset, metric="kitti")
    with pytest.raises(UserError, match="metric 'map' is unknown; choose one of coco, voc07, voc10, kitti"):
        evaluate(model, dataset, metric="map")


def test_results_of_levels_are_read_as_they_were_written(model, dataset):
    scores = dict.fromkeys(METRICS["kitti"].names, 0.5)
    levels = {"Car": dict.fromkeys(METRICS["kitti"].names[1:], 0.25)}
    result = replace(
        evaluate(model, dataset, latency_runs=0),
        metric="kitti",
        accuracy=scores,
        per_class={"Car": 0.25},
        class_scores=levels,
        detections=None,
    )
    assert EvalResult.from_json(result.to_json(), "a file") == result
    earlier = evaluated().to_json()
    del earlier["metric"]
    assert EvalResult.from_json(earlier, "a file") == evaluated()
