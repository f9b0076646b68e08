import json
import os
import shutil

import pytest

from greedyprune import UserError
from greedyprune.data import CocoDetection


def edit(folder, change):
    path = folder / "annotations" / "instances_val2017.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def complaint(folder):
    with pytest.raises(UserError) as error:
        CocoDetection(folder, "val")
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_missing_folder_is_named_with_the_layout(tmp_path):
    message = complaint(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message
    assert "annotations/instances_val2017.json" in message


@pytest.mark.parametrize("part", ["annotations/instances_val2017.json", "val2017"])
def test_a_missing_part_of_the_layout_is_named(two_images, part):
    path = two_images / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert f"{two_images} has no {part}" in complaint(two_images)


@pytest.mark.parametrize("content", [b'{"images": [', b"\xff\xfe\x00", b""])
def test_a_file_that_is_not_json_is_named(two_images, content):
    path = two_images / "annotations" / "instances_val2017.json"
    path.write_bytes(content)
    assert f"{path} is not JSON" in complaint(two_images)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_missing_list_is_named(two_images, key):
    edit(two_images, lambda data: data.pop(key))
    assert f"has no '{key}'" in complaint(two_images)


def test_a_file_that_holds_a_list_is_refused(two_images):
    (two_images / "annotations" / "instances_val2017.json").write_text("[]")
    assert "instances_val2017.json is no object" in complaint(two_images)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"category_id": 77}, "annotation 2 is of category 77, which is not listed"),
        ({"category_id": [3]}, "annotation 2 has category_id [3], not a whole number"),
        ({"image_id": 6}, "annotation 2 is of image 6, which is not listed"),
        ({"bbox": [1, 2, -3, 4]}, "annotation 2 has bbox [1, 2, -3, 4], not four finite numbers"),
        ({"bbox": [1, 2, 3, -4.5]}, "annotation 2 has bbox [1, 2, 3, -4.5], not four finite numbers"),
        ({"bbox": [1, 2, 3]}, "annotation 2 has bbox [1, 2, 3], not four finite numbers"),
        ({"bbox": [1, 2, float("nan"), 3]}, "annotation 2 has bbox [1, 2, nan, 3], not four finite numbers"),
        ({"bbox": None}, "annotation 2 has bbox None"),
        ({"area": "big"}, "annotation 2 has area 'big'"),
        ({"id": 1}, "two of annotation id 1"),
    ],
)
def test_an_annotation_that_makes_no_sense_is_named_by_its_id(two_images, change, expected):
    edit(two_images, lambda data: data["annotations"][1].update(change))
    message = complaint(two_images)
    assert expected in message
    assert "instances_val2017.json" in message


@pytest.mark.parametrize(
    ("kind", "key"), [("images", "file_name"), ("images", "id"), ("annotations", "bbox"), ("categories", "name")]
)
def test_an_entry_without_a_key_is_named_by_its_id_or_its_place(two_images, kind, key):
    edit(two_images, lambda data: data[kind][1].pop(key))
    name = {"images": "image 2", "annotations": "annotation 2", "categories": "category 9"}[kind]
    assert f"{'image number 2 of the file' if key == 'id' else name} has no '{key}'" in complaint(two_images)


def test_an_image_without_size_is_named(two_images):
    edit(two_images, lambda data: data["images"][0].update(height=0))
    assert "image 5 has height 0, not a whole number of at least 1" in complaint(two_images)


def test_detection_sets_need_neither_iscrowd_nor_area(two_images):
    dataset = CocoDetection(two_images, "val")
    assert [annotation["iscrowd"] for annotation in dataset.coco.imgToAnns[5]] == [0, 0, 1]
    assert [annotation["area"] for annotation in dataset.coco.imgToAnns[5]] == [80.0, 750.0, 81.0]


def test_opening_prints_nothing_and_a_changed_file_is_read_again(two_images, capsys):
    before = CocoDetection(two_images, "val")
    assert CocoDetection(two_images, "val").coco is before.coco
    edit(two_images, lambda data: data["annotations"].pop())
    after = CocoDetection(two_images, "val")
    assert (len(before.coco.anns), len(after.coco.anns)) == (3, 2)
    assert before.fingerprint != after.fingerprint
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[" * 100_000 + "]" * 100_000, "is nested too deeply"),
        ('{"images": ' + '{"a": ' * 100_000 + "1" + "}" * 100_001, "is nested too deeply"),
        ('{"images": ' + "9" * 5000 + "}", "is not JSON"),
        ('{"images": [], "images": [], "annotations": [], "categories": []}', "has the key 'images' more than once"),
        (
            '{"images": [{"id": 7, "height": 1, "width": 1, "height": 2}], "annotations": [], "categories": []}',
            "an object of id 7 has the key 'height' more than once",
        ),
        ("null", "is no object"),
    ],
)
def test_json_that_no_annotation_file_is_gets_one_line(two_images, content, expected):
    path = two_images / "annotations" / "instances_val2017.json"
    path.write_text(content)
    message = complaint(two_images)
    assert str(path) in message
    assert expected in message


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to itself", "link to nothing"])
def test_what_is_no_regular_file_is_not_even_opened(two_images, kind):
    path = two_images / "annotations" / "instances_val2017.json"
    path.unlink()
    make = {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "link to itself": lambda: path.symlink_to(path),
        "link to nothing": lambda: path.symlink_to("nothing"),
    }
    make[kind]()
    expected = {"pipe": "is a named pipe", "device": "is a device", "folder": "is a folder"}.get(kind, "has no")
    message = complaint(two_images)
    assert expected in message
    assert "annotations/instances_val2017.json" in message


def test_a_pipe_for_a_folder_of_images_is_named(two_images):
    shutil.rmtree(two_images / "val2017")
    os.mkfifo(two_images / "val2017")
    assert f"{two_images / 'val2017'} is not a folder of images" in complaint(two_images)


def test_a_file_that_is_listed_twice_is_told_once(two_images, recwarn):
    edit(two_images, lambda data: data["images"][1].update(file_name="5.png", height=20, width=30))
    assert len(CocoDetection(two_images, "val")) == len(CocoDetection(two_images, "val")) == 2
    (warning,) = recwarn.list
    assert "lists 1 image files more than once, the first of them '5.png'" in str(warning.message)


@pytest.mark.parametrize("key", ["images", "annotations"])
def test_a_split_without_images_or_objects_can_be_opened(two_images, key):
    edit(two_images, lambda data: data.update({"annotations": [], key: []}))
    assert len(CocoDetection(two_images, "val")) == (0 if key == "images" else 2)
