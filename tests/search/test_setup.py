"""Which images a search looks at."""

import json
from collections.abc import Collection
from pathlib import Path

import pytest

from greedyprune import UserError
from greedyprune.commands.prune import main as prune
from greedyprune.data.coco import CocoDetection
from greedyprune.models import save_checkpoint
from greedyprune.search.options import MendOptions, SearchImages, SearchOptions
from greedyprune.search.setup import Chosen

from ..evaluation.tiny_coco import tiny_model, write_tiny

OPTIONS = SearchOptions(images=SearchImages(score_images=4), mend=MendOptions(images=6))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny(tmp_path, 24, "train")
    return write_tiny(tmp_path, 8, "val")


def keep(folder: Path, split: str, *, images: int | None = None, objects_of: Collection[int] = ()) -> None:
    """Keep the first images, and the objects of some."""
    path = folder / "annotations" / f"instances_{split}2017.json"
    data = json.loads(path.read_text())
    data["images"] = data["images"][:images]
    data["annotations"] = [entry for entry in data["annotations"] if entry["image_id"] in objects_of]
    path.write_text(json.dumps(data))


def choose(folder: Path, options: SearchOptions = OPTIONS) -> Chosen:
    return Chosen.choose(options, CocoDetection(folder, "val"), CocoDetection(folder, "train"))


def test_images_with_objects_score_and_all_others_calibrate_and_mend(folder: Path) -> None:
    keep(folder, "train", objects_of=range(10, 60, 10))
    chosen = choose(folder)
    assert len(chosen.score) == 4
    assert set(chosen.score) < set(range(10, 60, 10))
    others = set(range(10, 250, 10)) - set(chosen.score)
    assert set(chosen.calibration) == set(chosen.others) == others
    assert set(chosen.mending) < others
    assert len(chosen.mending) == 6


def test_choosing_is_a_function_of_the_seed_and_fewer_are_among_more(folder: Path) -> None:
    assert choose(folder).score == choose(folder).score
    others = [choose(folder, SearchOptions(seed=seed, images=SearchImages(score_images=4))).score for seed in range(4)]
    assert len({tuple(each) for each in others}) > 1
    few, many = (choose(folder, SearchOptions(images=SearchImages(6, number, 4))) for number in (2, 4))
    assert len(few.full) == 6
    assert set(few.subset) < set(many.subset) < set(many.full) == set(few.full)


@pytest.mark.parametrize("schedule", ["gp", "modular"])
def test_the_published_schedules_score_on_16_images_and_need_no_others(schedule: str, folder: Path) -> None:
    assert len(choose(folder, SearchOptions(schedule=schedule)).score) == 16
    keep(folder, "train", images=3, objects_of=range(10, 40, 10))
    assert len(choose(folder, SearchOptions(schedule=schedule)).score) == 3
    with pytest.raises(UserError, match=r"all 3 training images measure damage, .* give a smaller --score_images"):
        choose(folder, SearchOptions())
    assert len(choose(folder, SearchOptions(images=SearchImages(score_images=2))).calibration) == 1


@pytest.mark.parametrize("images", [None, 0])
def test_data_without_a_training_object_are_refused(images: int | None, folder: Path) -> None:
    keep(folder, "train", images=images)
    with pytest.raises(UserError, match=r"no training image in .*train2017 has an object"):
        choose(folder)


def test_data_without_validation_images_are_refused(folder: Path) -> None:
    keep(folder, "val", images=0)
    with pytest.raises(UserError, match=r"has no validation images, and a search measures AP on them"):
        choose(folder)


@pytest.mark.slow
def test_a_search_calibrates_on_images_without_objects_and_may_take_every_encoder_layer(
    folder: Path, tmp_path: Path
) -> None:
    keep(folder, "train", objects_of=range(10, 50, 10))
    save_checkpoint(tiny_model(), tmp_path / "model.safetensors")
    paths = ["--resume", tmp_path / "model.safetensors", "--coco_path", folder, "--output_dir", tmp_path / "out"]
    words = "--device cpu --mend_steps 2 --score_images 4 --map_tol 0.9"
    assert prune([*map(str, paths), *words.split()]) == 0
    assert (tmp_path / "out" / "slim.safetensors").is_file()
