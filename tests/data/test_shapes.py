import contextlib
import filecmp
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from greedyprune.data import make_shapes
from greedyprune.data.shapes import CATEGORIES, SIZES, draw_scene
from greedyprune.data.shapes_coco import CHUNK
from greedyprune.data.summary import summarize


def open_coco(folder, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(folder / "annotations" / f"instances_{split}2017.json"))


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def val(shapes):
    return open_coco(shapes, "val")


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(np.random.default_rng([0, 0, number])) for number in range(300)]


@pytest.fixture(scope="module")
def areas(scenes):
    return np.array([item.mask.sum() for _, instances in scenes for item in instances if not item.crowd])


def test_area_and_box_are_those_of_the_mask(val):
    assert val.anns
    for annotation in val.anns.values():
        mask = val.annToMask(annotation)
        image = val.imgs[annotation["image_id"]]
        assert mask.shape == (image["height"], image["width"])
        assert annotation["area"] == mask.sum() > 0
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        tight = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        assert annotation["bbox"] == tight


def test_a_pixel_belongs_to_one_annotation_at_most(val):
    for image in val.imgs:
        masks = [val.annToMask(annotation) for annotation in val.imgToAnns[image]]
        assert not masks or np.sum(masks, axis=0).max() == 1


def test_files_are_rgb_images_of_the_listed_sizes(shapes, val):
    assert len(val.imgs) == len(list((shapes / "val2017").iterdir())) == 100
    for image in val.imgs.values():
        with Image.open(shapes / "val2017" / image["file_name"]) as file:
            assert (file.mode, file.height, file.width) == ("RGB", image["height"], image["width"])
            assert (file.height, file.width) in SIZES
    assert len({image["file_name"] for image in val.imgs.values()}) == 100


def test_small_medium_and_large_objects_of_every_class_are_frequent(scenes, areas):
    assert len(areas) > 3 * len(scenes)
    assert 0.35 < (areas < 32**2).mean() < 0.6
    assert (areas >= 96**2).mean() > 0.04
    counts = dict.fromkeys(CATEGORIES, 0)
    for _, instances in scenes:
        for item in instances:
            counts[item.category] += 1
    assert min(counts.values()) > 0.07 * len(areas)


def test_objects_reach_from_8_pixels_to_most_of_the_image(scenes):
    extents = [
        max(np.ptp(np.flatnonzero(item.mask.any(0))), np.ptp(np.flatnonzero(item.mask.any(1)))) + 1
        for _, instances in scenes
        for item in instances
    ]
    assert 5 <= min(extents) <= 11
    assert max(extents) > 140


def test_there_are_empty_images_and_crowds_of_eight_or_more(scenes):
    from scipy.ndimage import label

    empty = [1 for _, instances in scenes if not instances]
    crowds = [item for _, instances in scenes for item in instances if item.crowd]
    assert 0.01 < len(empty) / len(scenes) < 0.06
    assert 0.01 < len(crowds) / len(scenes) < 0.06
    assert all(label(item.mask, np.ones((3, 3)))[1] >= 8 for item in crowds)


def test_objects_stand_out_from_what_is_around_them(scenes):
    from scipy.ndimage import binary_dilation, binary_erosion

    contrasts = []
    for image, instances in scenes:
        pixels = np.asarray(image, dtype=np.float32)
        for item in instances:
            inside = item.mask & ~binary_erosion(item.mask, iterations=3)
            outside = binary_dilation(item.mask, iterations=4) & ~binary_dilation(item.mask)
            contrasts.append(np.linalg.norm(pixels[inside].mean(0) - pixels[outside].mean(0)))
    assert np.quantile(contrasts, 0.05) > 30


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(shapes, tmp_path):
    alone = make_shapes(tmp_path / "alone", train_images=50, val_images=100, workers=1)
    assert files(alone) == files(shapes)
    assert filecmp.cmpfiles(alone, shapes, files(alone), shallow=False)[1:] == ([], [])


def test_another_seed_gives_other_images(shapes, tmp_path):
    other = make_shapes(tmp_path / "other", train_images=1, val_images=1, seed=1, workers=1)
    assert filecmp.cmpfiles(other, shapes, files(other), shallow=False)[0] == []


def test_more_training_images_leave_the_first_ones_and_all_of_val_as_they_are(shapes, tmp_path):
    fewer = make_shapes(tmp_path / "fewer", train_images=CHUNK + 2, val_images=100, workers=2)
    same = [path for path in files(fewer) if path.name != "instances_train2017.json"]
    assert filecmp.cmpfiles(fewer, shapes, same, shallow=False)[1:] == ([], [])
    few, many = (
        json.loads((folder / "annotations" / "instances_train2017.json").read_text()) for folder in (fewer, shapes)
    )
    assert few["images"] == many["images"][: CHUNK + 2]
    assert few["annotations"] == many["annotations"][: len(few["annotations"])]


def test_the_summary_counts_what_pycocotools_finds(shapes, val):
    found = summarize(shapes, "val")
    single = [annotation for annotation in val.anns.values() if not annotation["iscrowd"]]
    assert (found.images, found.objects, found.crowds) == (100, len(single), len(val.anns) - len(single))
    assert found.empty == sum(not val.imgToAnns[image] for image in val.imgs)
    ids = [annotation["category_id"] for annotation in single]
    assert found.classes == {name: ids.count(category) for category, name in CATEGORIES.items()}
    small = np.mean([annotation["area"] < 1024 for annotation in single])
    assert found.sizes["small"] == pytest.approx(small)
    assert sum(found.sizes.values()) == pytest.approx(1)
