"""Which images a search works with, of data with and without objects."""

import json

import pytest

from greedyprune import UserError
from greedyprune.commands.prune import main
from greedyprune.data.coco import CocoDetection
from greedyprune.models import save_checkpoint
from greedyprune.search.options import SearchOptions
from greedyprune.search.setup import Chosen

from ..evaluation.tiny_coco import tiny_model, write_tiny


@pytest.fixture
def folder(tmp_path):
    write_tiny(tmp_path, 24, "train")
    return write_tiny(tmp_path, 4, "val")


def keep(folder, split, *, images=None, objects_of=()):
    """Keep the first images, and the objects of some."""
    path = folder / "annotations" / f"instances_{split}2017.json"
    data = json.loads(path.read_text())
    data["images"] = data["images"][:images]
    data["annotations"] = [entry for entry in data["annotations"] if entry["image_id"] in objects_of]
    path.write_text(json.dumps(data))


def search(folder, *words):
    save_checkpoint(tiny_model(), folder / "model.safetensors")
    paths = ["--resume", folder / "model.safetensors", "--coco_path", folder, "--output_dir", folder / "out"]
    return main([*map(str, paths), "--device", "cpu", "--mend_steps", "2", "--score_images", "4", *words])


def test_images_with_objects_score_and_those_without_calibrate(folder):
    keep(folder, "train", objects_of=range(10, 60, 10))
    train, val = CocoDetection(folder, "train"), CocoDetection(folder, "val")
    chosen = Chosen.choose(SearchOptions(), val, train)
    assert chosen.score == [10, 20, 30, 40, 50]
    assert set(chosen.calibration) == set(chosen.others) == set(range(60, 250, 10))


def test_a_search_calibrates_on_images_without_objects(folder, capsys):
    keep(folder, "train", objects_of=range(10, 50, 10))
    assert search(folder, "--map_tol", "0.9") == 0
    assert "--cfgs" in capsys.readouterr().out


@pytest.mark.parametrize("images", [None, 0])
def test_a_search_without_a_training_object_is_refused(folder, images):
    keep(folder, "train", images=images)
    with pytest.raises(UserError, match=r"no training image in .*train2017 has an object"):
        search(folder)


def test_a_search_without_validation_images_is_refused(folder):
    keep(folder, "val", images=0)
    with pytest.raises(UserError, match=r"has no validation images"):
        search(folder)
