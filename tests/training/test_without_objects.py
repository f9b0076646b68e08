"""Training where some images, or all of them, have no object."""

import json
import math

import pytest

from greedyprune import UserError, build_model
from greedyprune.data.coco import CocoDetection
from greedyprune.models import ModelInfo
from greedyprune.training.crops import cut_crops

from ..evaluation.tiny_coco import CATEGORIES
from .tiny_training import losses, make_trainer, small_model, train, write_data


def empty(folder, split, *keys):
    """The split without its annotations, or its images."""
    path = folder / "annotations" / f"instances_{split}2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: [] for key in keys}))
    return folder


def deformable():
    shape = {"hidden_dim": 32, "heads": 2, "enc_layers": 1, "dec_layers": 2, "ffn_dim": 8, "num_queries": 9}
    info = ModelInfo(tuple(CATEGORIES.values()), tuple(CATEGORIES), 48, 64)
    return build_model("dn_deformable_detr", info=info, backbone="small", num_classes=2, **shape)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encoder_head": 1.0},
        {"augment": "detr"},
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (
                {"no_dn": True},
                {"teacher": True},
                {"model": deformable},
                {"augment": "flips"},
                {"amp": "bf16"},
                {"run": {"accumulate": 2}},
            )
        ),
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_images_without_objects_teach_that_there_is_none(tmp_path, options):
    data = empty(write_data(tmp_path / "data"), "train", "annotations")
    options = {**options, "model": options.get("model", small_model)()}
    if options.get("teacher"):
        options["teacher"] = small_model()
    records = train(make_trainer(data, tmp_path / "out", run={"log_every": 1, **options.pop("run", {})}, **options))
    assert len(losses(records)) == 4
    assert all(math.isfinite(loss) and loss > 0 for loss in losses(records))
    assert all(record["loss_bbox"] == 0 for record in records if "loss_bbox" in record)


@pytest.mark.parametrize("keys", [("annotations",), ("annotations", "images")])
def test_validation_without_objects_or_images_measures_minus_one(tmp_path, keys):
    data = empty(write_data(tmp_path / "data"), "val", *keys)
    records = train(make_trainer(data, tmp_path / "out"))
    assert records[-1]["AP"] == -1
    assert set(records[-1]["per_class"].values()) == {-1}


def test_training_without_images_is_refused(tmp_path):
    data = empty(write_data(tmp_path / "data"), "train", "annotations", "images")
    with pytest.raises(UserError, match=r"there are no images in .*train2017 to train on"):
        make_trainer(data, tmp_path / "out")


def test_a_backbones_first_lesson_needs_an_object(tmp_path):
    data = empty(write_data(tmp_path / "data"), "train", "annotations")
    dataset = CocoDetection(data, "train", None, lambda image, target: (image, target))
    with pytest.raises(UserError, match=r"no image in .*train2017 has an object to learn from"):
        cut_crops(dataset, 32)
