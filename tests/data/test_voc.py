"""Pascal VOC's annotation files as annotations, and back."""

import pytest

from greedyprune import UserError
from greedyprune.data.coco import CocoDetection
from greedyprune.data.conversion import Classes, Tally, read_coco, write_coco
from greedyprune.data.voc import CLASSES, read_voc, write_voc

from ..helpers import devkits
from ..helpers.devkits import voc_file, voc_object

# Sides are given as ymax, xmin, ymin, xmax: in another order than usual.
DOG = voc_object("dog", (30, 5, 4, 20), "<pose>Left</pose><truncated>1</truncated><difficult>0</difficult>")
HARD = voc_object("person", ("39.5", "7.25", "2.0", "11.75"), "<occluded>1</occluded><difficult>1</difficult>")
HEAD = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
PERSON = voc_object("person", (20, 1, 1, 60), HEAD)


@pytest.fixture
def devkit(tmp_path):
    years = tmp_path / "VOCdevkit"
    devkits.write_voc(
        years / "VOC2007",
        {"000001": voc_file(DOG, HARD), "000002": voc_file(), "000003": voc_file(PERSON)},
        {"trainval": ["000001", "000002"], "test": ["000003"], "dog_trainval": ["000001  1", "000002 -1"]},
    )
    devkits.write_voc(years / "VOC2012", {"2008_000001": voc_file(PERSON, DOG)}, {"trainval": ["2008_000001"]})
    return years


def read(folder, classes=None, tally=None, **more):
    return read_voc(folder, classes or Classes(), tally or Tally(), **more)


def test_boxes_count_pixels_from_0_and_what_is_told_of_objects_is_kept(devkit):
    source = read(devkit)
    assert source.categories == dict(enumerate(CLASSES, start=1))
    dog, hard = source.splits["train"][0].things
    assert (dog.name, dog.box, dog.crowd) == ("dog", (4, 3, 16, 27), False)
    assert dog.fields == {"truncated": 1, "difficult": 0, "pose": "Left"}
    assert (hard.box, hard.fields) == ((6.25, 1, 5.5, 38.5), {"truncated": 0, "difficult": 1, "occluded": 1})


def test_parts_are_no_objects(devkit):
    assert [(each.name, each.box) for each in read(devkit).splits["val"][0].things] == [("person", (0, 0, 60, 20))]


def test_several_years_and_sets_are_taken_as_they_are_asked_for(devkit):
    names = [each.name for each in read(devkit).splits["train"]]
    assert names == ["VOC2007/000001.jpg", "VOC2007/000002.jpg", "VOC2012/2008_000001.jpg"]
    sets = {"train": ["2012:trainval"], "val": ["VOC2007:dog_trainval", "2007:test"]}
    chosen = read(devkit, sets=sets).splits
    assert [[each.path.stem for each in chosen[split]] for split in ("train", "val")] == [
        ["2008_000001"],
        ["000001", "000002", "000003"],
    ]
    with pytest.raises(UserError, match=r"image set 2012:test is not there .*VOC2012.*test\.txt"):
        read(devkit, sets={"train": ["trainval"], "val": ["2012:test"]})


def test_difficult_objects_are_kept_and_not_trained_on(devkit, tmp_path):
    write_coco(tmp_path / "coco", read(devkit))
    data = CocoDetection(tmp_path / "coco", "train")
    assert [annotation["difficult"] for annotation in data.coco.imgToAnns[1]] == [0, 1]
    assert len(data[0][1]["labels"]) == 1


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (voc_file(voc_object("Größe", (9, 1, 1, 9))).encode(), "utf-8-sig"),
        (b"\xef\xbb\xbf" + voc_file(voc_object("Größe", (9, 1, 1, 9))).encode(), "utf-8-sig"),
        (voc_file(voc_object("Größe", (9, 1, 1, 9)), head="<?xml version='1.0' encoding='latin-1'?>"), "utf-8-sig"),
        (voc_file(voc_object("Größe", (9, 1, 1, 9))).encode("utf-16"), "utf-16"),
    ],
)
def test_names_are_read_in_any_encoding(tmp_path, content, encoding):
    data = content.encode("latin-1") if isinstance(content, str) else content
    folder = devkits.write_voc(tmp_path / "mine", {"a": data}, {"train": ["a"], "val": []})
    assert read(folder / "mine", encoding=encoding).categories == {1: "Größe"}


def test_names_in_a_declared_encoding_of_several_bytes_are_read(tmp_path):
    data = voc_file(voc_object("犬", (9, 1, 1, 9)), head='<?xml version="1.0" encoding="GB2312"?>').encode("gb2312")
    folder = devkits.write_voc(tmp_path / "mine", {"a": data}, {"train": ["a"], "val": []})
    assert read(folder / "mine").categories == {1: "犬"}


def test_the_size_is_the_images_where_the_file_lacks_it(tmp_path):
    files = {"a": voc_file(DOG, size=(0, 0)), "b": f"<annotation>{DOG}</annotation>"}
    folder = devkits.write_voc(tmp_path / "VOC2007", files, {"train": ["a", "b"], "val": []})
    assert [(each.width, each.height) for each in read(folder).splits["train"]] == [(60, 40)] * 2


@pytest.mark.parametrize(
    ("broken", "told", "left"),
    [
        (voc_file(DOG)[:-5], "is not XML: ", [1]),
        ("<html></html>", "is a html, not an annotation", [1]),
        (voc_file(DOG, size=(61, 40)), "is of an image of 61 x 40, and the image has 60 x 40 pixels", [1]),
        (voc_file(DOG.replace("<name>dog</name>", ""), DOG), "object 1 has no name", [1, 1]),
        (voc_file(DOG, "<object><name>dog</name></object>"), r"object 2 \(dog\) has no bndbox", [1, 1]),
        (voc_file(voc_object("dog", (9, "x", 1, 9)), DOG), r"object 1 \(dog\): xmin is x, not a number", [1, 1]),
        (voc_file(voc_object("dog", (9, 9, 1, 8))), r"object 1 \(dog\): its box ends before it begins", [1, 0]),
        (voc_file(DOG.replace("lt>0<", "lt>2<")), r"object 1 \(dog\): difficult is 2, not 0 or 1", [1, 0]),
        (voc_file(DOG).encode() + b"\xff", "is not utf-8; give --encoding", [1]),
    ],
)
def test_broken_files_and_objects_are_named_or_skipped(tmp_path, broken, told, left):
    files = {"fine": voc_file(DOG), "broken": broken}
    folder = devkits.write_voc(tmp_path / "VOC2007", files, {"train": ["fine", "broken"], "val": []})
    with pytest.raises(UserError, match=rf"broken\.xml.*{told}"):
        read(folder)
    tally = Tally(skip=True)
    assert [len(each.things) for each in read(folder, tally=tally).splits["train"]] == left
    assert len(tally.broken) == 1


def test_other_classes_are_left_out_or_merged(devkit):
    tally = Tally()
    source = read(devkit, Classes(("person",)), tally)
    assert source.categories == {1: "person"}
    assert tally.left_out == {"dog": 2}
    merged = read(devkit, Classes((), {"dog": "animal"}))
    assert merged.categories == {1: "animal", 2: "person"}


def test_back_and_forth_the_objects_are_what_they_were(devkit, tmp_path):
    source = read(devkit)
    write_coco(tmp_path / "coco", source)
    write_voc(tmp_path / "back", read_coco(tmp_path / "coco")[0], "copy")
    again = read(tmp_path / "back")
    for split in ("train", "val"):
        assert [each.name for each in again.splits[split]] == [each.name for each in source.splits[split]]
        for before, after in zip(source.splits[split], again.splits[split], strict=True):
            assert [(each.name, each.box) for each in after.things] == [(each.name, each.box) for each in before.things]
            assert [{"pose": "Unspecified", **each.fields} for each in before.things] == [
                each.fields for each in after.things
            ]
