"""YOLO's label files as annotations, and back."""

import pytest

from greedyprune import UserError
from greedyprune.data.conversion import Classes, Tally, read_coco, write_coco
from greedyprune.data.kitti import read_kitti
from greedyprune.data.yolo import read_yolo, write_yolo

from ..helpers import devkits

LABELS = {"train/a": ["1 0.5 0.5 0.5 0.25", "0 0.05 0.5 0.2 1"], "train/deep/b": [], "val/c": None}


@pytest.fixture
def folder(tmp_path):
    return devkits.write_yolo(tmp_path / "yolo", LABELS)


def read(folder, classes=None, tally=None):
    return read_yolo(folder, classes or Classes(), tally or Tally())


def test_boxes_are_pixels_within_the_image_and_ids_the_class_numbers(folder):
    tally = Tally()
    source = read(folder, tally=tally)
    assert source.categories == {0: "cat", 1: "dog"}
    first, second = source.splits["train"]
    assert (first.name, second.name, second.things) == ("a.jpg", "deep/b.jpg", [])
    assert [(each.name, each.box) for each in first.things] == [
        ("dog", (15, 15, 30, 10)),
        ("cat", (0, 0, pytest.approx(9), 40)),
    ]
    assert tally.notes == ["images of val without a label file, and so without objects: 1"]


def test_polygons_become_boxes_around_them_and_are_kept(tmp_path):
    folder = devkits.write_yolo(tmp_path, {"train/a": ["0 0.1 0.5 0.5 0.25 0.3 1"], "val/b": []})
    thing = read(folder).splits["train"][0].things[0]
    assert thing.box == pytest.approx((6, 10, 24, 30))
    assert thing.fields["segmentation"] == [pytest.approx([6, 20, 30, 10, 18, 40])]


def test_lists_of_images_and_names_by_number_and_folders_above_are_understood(folder):
    (folder / "list.txt").write_text("./images/train/a.jpg\nimages/val/c.jpg\n")
    (folder / "data.yaml").write_text("path: .\ntrain: list.txt\nval: ['../images/val']\nnc: 2\nnames: {0: x, 1: y}\n")
    source = read(folder / "data.yaml")
    assert [each.name for each in source.splits["train"]] == ["a.jpg", "c.jpg"]
    assert [each.name for each in source.splits["val"]] == ["c.jpg"]
    assert source.categories == {0: "x", 1: "y"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0 0.5 0.5 0.5", "has 4 columns, not 5 or those of a polygon"),
        ("2 0.5 0.5 0.5 0.5", "class 2 is none of the 2 of data.yaml"),
        ("0 0.5 wide 0.5 0.5", "wide is not a number"),
        ("0 0.5 0.5 30 40", "has a number that is not in 0..1"),
        ("0 0.5 0.5 0 0.5", "its box has no area"),
    ],
)
def test_a_broken_line_is_named_or_skipped_alone(tmp_path, line, told):
    folder = devkits.write_yolo(tmp_path, {"train/a": ["0 0.5 0.5 0.5 0.5", line], "val/b": []})
    with pytest.raises(UserError, match=rf"a\.txt line 2:? {told}"):
        read(folder)
    tally = Tally(skip=True)
    assert len(read(folder, tally=tally).splits["train"][0].things) == len(tally.broken) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: [", "is not YAML: "),
        ("[]", "holds a list, not names and folders"),
        ("train: images/train\nval: images/val", "names is None, not a list"),
        ("names: [a, b]\nnc: 3\ntrain: x", "nc is 3, and there are 2 names"),
        ("names: [a, a]", "names has a name twice"),
        ("names: {1: a}", "names is a dict, not a list, or numbers from 0"),
        ("names: [a, b]\nval: images/val", "train is None, not a folder or a list of images"),
        ("names: [a, b]\ntrain: gone\nval: images/val", "train names .*gone, which is not there"),
    ],
)
def test_a_description_that_says_too_little_is_refused(folder, text, told):
    (folder / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"data\.yaml:? {told}"):
        read(folder)


def test_back_and_forth_the_boxes_are_what_they_were(folder, tmp_path):
    source = read(folder)
    write_coco(tmp_path / "coco", source)
    listed, categories = read_coco(tmp_path / "coco")
    write_yolo(tmp_path / "back", listed, categories, "copy", Tally())
    again = read(tmp_path / "back")
    assert again.categories == source.categories
    for split in ("train", "val"):
        for before, after in zip(source.splits[split], again.splits[split], strict=True):
            assert before.name == after.name
            assert [each.name for each in before.things] == [each.name for each in after.things]
            for one, other in zip(before.things, after.things, strict=True):
                assert one.box == pytest.approx(other.box, abs=1e-4)


def test_crowds_cannot_be_written_and_are_counted(tmp_path):
    kitti = devkits.write_kitti(tmp_path / "kitti", {"000000": [devkits.CAR, devkits.VAN, devkits.REGION]})
    write_coco(tmp_path / "coco", read_kitti(kitti, Classes(), Tally(), val_share=0))
    tally = Tally()
    write_yolo(tmp_path / "yolo", *read_coco(tmp_path / "coco"), "copy", tally)
    assert tally.notes == ["crowds that are left out, for this format has none: 4"]
    assert len((tmp_path / "yolo" / "labels" / "train" / "000000.txt").read_text().splitlines()) == 1
