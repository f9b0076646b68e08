"""KITTI's label files as annotations, and back."""

import pytest

from greedyprune import UserError
from greedyprune.data.conversion import Classes, Tally, read_coco, write_coco
from greedyprune.data.kitti import read_kitti, write_kitti
from greedyprune.data.yolo import read_yolo

from ..helpers import devkits
from ..helpers.devkits import CAR, REGION, SITTER, TRUCK, VAN, WALKER

LABELS = {"000003": [CAR, VAN, REGION], "000007": [WALKER, SITTER, TRUCK], "000008": [], "000010": [CAR]}


@pytest.fixture
def folder(tmp_path):
    devkits.write_ids(devkits.write_kitti(tmp_path / "kitti", LABELS), ["000003", "000007"], ["000008", "000010"])
    return tmp_path / "kitti"


def ids(folder):
    return [folder / "ImageSets" / f"{split}.txt" for split in ("train", "val")]


def read(folder, classes=None, tally=None):
    return read_kitti(folder, classes or Classes(), tally or Tally(), ids(folder))


def test_objects_keep_their_15_columns_and_images_their_numbers(folder):
    source = read(folder)
    assert source.categories == {1: "Car", 2: "Pedestrian", 3: "Cyclist"}
    assert [each.number for each in source.splits["train"]] == [3, 7]
    assert [len(each.things) for each in source.splits["val"]] == [0, 1]
    first = source.splits["train"][0]
    assert (first.height, first.width) == (40, 60)
    car = first.things[0]
    assert (car.name, car.box, car.crowd) == ("Car", (5.5, 4.0, 24.75, 30.0), False)
    assert car.fields == {
        "type": "Car",
        "truncated": 0.2,
        "occluded": 1,
        "height": 30.0,
        "alpha": -1.57,
        "dimensions": [1.5, 1.6, 3.9],
        "location": [1.0, 1.7, 20.0],
        "rotation_y": -1.6,
    }


def test_neighbours_are_crowds_of_their_class_and_regions_of_every_class(folder):
    tally = Tally()
    first, second = read(folder, tally=tally).splits["train"]
    assert [(each.name, each.crowd, each.fields["type"]) for each in first.things] == [
        ("Car", False, "Car"),
        ("Car", True, "Van"),
        *((name, True, "DontCare") for name in ("Car", "Pedestrian", "Cyclist")),
    ]
    assert [(each.name, each.fields["type"]) for each in second.things if each.crowd] == [
        ("Pedestrian", "Person_sitting")
    ]
    assert tally.left_out == {"Truck": 1}


def test_merged_types_are_objects_like_others(folder):
    classes = Classes(("Vehicle",), {"Car": "Vehicle", "Van": "Vehicle", "Truck": "Vehicle"})
    things = [each for picture in read(folder, classes).splits["train"] for each in picture.things if not each.crowd]
    assert [(each.name, each.fields["type"]) for each in things] == [
        ("Vehicle", "Car"),
        ("Vehicle", "Van"),
        ("Vehicle", "Truck"),
    ]


def test_without_lists_a_share_is_drawn_by_the_seed(folder):
    def drawn(seed, share=0.5):
        splits = read_kitti(folder, Classes(), Tally(), val_share=share, seed=seed).splits
        return [[each.path.stem for each in splits[split]] for split in ("train", "val")]

    assert drawn(0) == drawn(0)
    assert len({str(drawn(seed)) for seed in range(6)}) > 1
    assert sorted(name for part in drawn(3) for name in part) == list(LABELS)
    assert [len(part) for part in drawn(1, 0.25)] == [3, 1]


def test_boxes_are_clipped_to_the_image_and_the_whole_height_is_kept(tmp_path):
    line = CAR.replace("5.50 4.00 30.25 34.00", "-2.00 4.00 60.50 41.00")
    folder = devkits.write_kitti(tmp_path, {"000000": [line]})
    thing = read_kitti(folder, Classes(), Tally(), val_share=0).splits["train"][0].things[0]
    assert (thing.box, thing.fields["height"]) == ((0, 4, 60, 36), 37)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (CAR.rsplit(" ", 1)[0], "has 14 columns, not 15"),
        (f"{CAR} 0.9", "has 16 columns, not 15"),
        (CAR.replace("5.50", "left"), "left is left, not a number"),
        (CAR.replace("3.90", "nan"), "length is nan, not a number"),
        (CAR.replace(" 1 ", " 4 "), "occluded is 4, not a whole number of at least -1 and at most 3"),
        (CAR.replace("0.20", "1.20"), "truncated is 1.2, not a number of at least -1 and at most 1"),
        (CAR.replace("30.25", "5.50"), "its box has no area in an image of 60 x 40"),
    ],
)
def test_a_broken_line_is_named_or_skipped_alone(tmp_path, line, told):
    folder = devkits.write_kitti(tmp_path, {"000000": [WALKER, line, CAR]})
    with pytest.raises(UserError) as error:
        read_kitti(folder, Classes(), Tally(), val_share=0)
    place = folder / "training" / "label_2" / "000000.txt"
    assert str(error.value).startswith(f"{place} line 2")
    assert told in str(error.value)
    tally = Tally(skip=True)
    assert len(read_kitti(folder, Classes(), tally, val_share=0).splits["train"][0].things) == 2
    assert len(tally.broken) == 1


def test_images_and_labels_that_are_missing_or_broken_are_named_or_skipped(folder):
    (folder / "training" / "image_2" / "000003.png").write_bytes(b"no image")
    (folder / "training" / "label_2" / "000007.txt").unlink()
    (folder / "training" / "image_2" / "000010.png").unlink()
    with pytest.raises(UserError, match=r"image 000003 \(.*000003\.png\) cannot be read"):
        read(folder)
    tally = Tally(skip=True)
    source = read(folder, tally=tally)
    assert [len(source.splits[split]) for split in ("train", "val")] == [0, 1]
    assert [name in line for name, line in zip(("000003", "000007", "000010"), tally.broken, strict=True)] == [True] * 3


def test_back_and_forth_every_line_is_what_it_was(folder, tmp_path):
    write_coco(tmp_path / "coco", read(folder))
    listed, _ = read_coco(tmp_path / "coco")
    write_kitti(tmp_path / "back", listed, "copy")
    labels = tmp_path / "back" / "training" / "label_2"
    kept = {name: [line for line in lines if line != TRUCK] for name, lines in LABELS.items()}
    assert {path.stem: path.read_text().splitlines() for path in labels.iterdir()} == kept
    assert read(tmp_path / "back").splits["train"][0].things == read(folder).splits["train"][0].things


def test_what_other_data_do_not_say_is_written_as_not_known(tmp_path):
    folder = devkits.write_yolo(tmp_path / "yolo", {"train/a": ["0 0.5 0.5 0.5 0.5"], "val/b": None}, "[a b]")
    write_coco(tmp_path / "coco", read_yolo(folder, Classes(), Tally()))
    write_kitti(tmp_path / "back", read_coco(tmp_path / "coco")[0], "copy")
    assert (tmp_path / "back" / "training" / "label_2" / "000001.txt").read_text() == (
        "a_b 0.00 0 -10.00 15.00 10.00 45.00 30.00 -1.00 -1.00 -1.00 -1000.00 -1000.00 -1000.00 -10.00\n"
    )
    assert (tmp_path / "back" / "ImageSets" / "val.txt").read_text() == "000002\n"
