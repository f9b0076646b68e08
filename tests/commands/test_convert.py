"""`greedyprune convert`: what it writes, tells and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from greedyprune import UserError
from greedyprune.commands.convert import main
from greedyprune.data.coco import CocoDetection
from greedyprune.evaluation.metrics import METRICS

from ..helpers import devkits
from ..helpers.devkits import CAR, REGION, TRUCK, VAN, WALKER, voc_file, voc_object

TOOL = Path(__file__).parents[2] / "tools" / "convert.py"
LABELS = {"000001": [CAR, TRUCK, REGION], "000002": [WALKER, VAN], "000004": [CAR]}


def tool(*words):
    """The tool as a user starts it."""
    return subprocess.run([sys.executable, TOOL, *map(str, words)], capture_output=True, text=True, timeout=120)


@pytest.fixture
def kitti(tmp_path):
    folder = devkits.write_kitti(tmp_path / "kitti", LABELS)
    return devkits.write_ids(folder, ["000001", "000002"], ["000004"])


def test_a_broken_line_is_one_line_and_exit_code_2_and_nothing_is_written(kitti, tmp_path):
    labels = kitti / "training" / "label_2" / "000002.txt"
    labels.write_text(f"{WALKER}\nCar 0.0\n")
    done = tool("kitti", kitti, "--out", tmp_path / "out" / "coco")
    assert (done.returncode, done.stdout) == (2, "")
    told = "has 2 columns, not 15; correct or remove it (--skip_broken leaves it out)"
    assert done.stderr == f"error: {labels} line 2 {told}\n"
    assert not (tmp_path / "out").exists()


def test_broken_lines_and_files_are_left_out_where_asked_and_told(kitti, tmp_path, capsys):
    labels = kitti / "training" / "label_2" / "000002.txt"
    labels.write_text("\n".join([WALKER, *["Car 0.0"] * 12]))
    (kitti / "training" / "image_2" / "000004.png").unlink()
    main(["kitti", str(kitti), "--out", str(tmp_path / "coco"), "--skip_broken"])
    printed = capsys.readouterr()
    assert "warning: broken lines and files that are left out: 13, the first 10 of them\n" in printed.err
    assert printed.err.count(f"  {labels} line ") == 10
    assert printed.out.splitlines()[0] == "train: 2 images (0 empty), 2 objects, 3 crowds"


def test_what_is_written_is_read_and_judged_by_kittis_levels(kitti, tmp_path, capsys):
    main(["kitti", str(kitti), "--out", str(tmp_path / "coco")])
    printed = capsys.readouterr()
    assert f"the images of train and val are those of {kitti / 'ImageSets' / 'train.txt'}" in printed.err
    assert "objects of other classes are left out: Truck 1" in printed.err
    assert printed.out.endswith(f"written to {tmp_path / 'coco'}\n")
    train = CocoDetection(tmp_path / "coco", "train")
    assert [len(train[number][1]["labels"]) for number in range(2)] == [1, 1]
    car = next(each for each in train.coco.imgToAnns[1] if not each["iscrowd"])
    found = [{"image_id": 1, "category_id": 1, "bbox": car["bbox"], "score": 0.9}]
    scores = METRICS["kitti"].accuracy(train.coco, train.image_ids, found, "auto").class_scores
    assert (scores["Car"]["AP11_easy"], scores["Car"]["AP11_moderate"]) == (-1, pytest.approx(1 / 11))


def test_every_format_goes_forth_and_back(tmp_path, kitti):
    main(["kitti", str(kitti), "--out", str(tmp_path / "coco"), "--images", "hardlink"])
    for kind in ("kitti", "voc", "yolo"):
        main([kind, str(tmp_path / "coco"), "--out", str(tmp_path / kind / "there"), "--back"])
        main([kind, str(tmp_path / kind / "there"), "--out", str(tmp_path / kind / "again")])
        data = CocoDetection(tmp_path / kind / "again", "train")
        assert [data.class_names[label] for label in data[0][1]["labels"]] == ["Car"]
        assert len(data) == 2


def test_images_can_be_linked_so_that_they_take_no_space(kitti, tmp_path):
    for placing in ("hardlink", "symlink"):
        main(["kitti", str(kitti), "--out", str(tmp_path / placing), "--images", placing])
        image = tmp_path / placing / "train2017" / "000001.png"
        assert image.samefile(kitti / "training" / "image_2" / "000001.png")
        assert image.is_symlink() == (placing == "symlink")
        assert len(CocoDetection(tmp_path / placing, "train")[0]) == 2


def test_classes_and_merges_are_given_by_name(kitti, tmp_path, capsys):
    arguments = ["--classes", "Car, Pedestrian", "--merge", "Van=Car,Truck=Car", "--val_share", "0"]
    main(["kitti", str(kitti), "--out", str(tmp_path / "coco"), *arguments])
    assert "classes: Car 4, Pedestrian 1" in capsys.readouterr().out
    content = json.loads((tmp_path / "coco" / "annotations" / "instances_train2017.json").read_text())
    assert [each["name"] for each in content["categories"]] == ["Car", "Pedestrian"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--train", "train", "--val", "val"], "--train does nothing in this call: it is for voc"),
        (["--back", "--seed", "1"], "--seed does nothing in this call: it is for the way to COCO's layout"),
        (["--train_ids", "a.txt"], "--train_ids names the images of one split; give both"),
        (["--train_ids", "a", "--val_ids", "b", "--seed", "1"], "--seed draws the images that --train_ids names"),
        (["--merge", "Van"], "--merge Van is not of the form A=B,C=D"),
        (["--classes", "Car,,Van"], "--classes Car,,Van has an empty name"),
        (["--classes", "Car", "--merge", "Van=Bus"], "--merge Van=Bus: which --classes does not name"),
        (["--classes", "Car,Car"], "--classes names Car twice"),
        (["--train_ids", "a.txt", "--val_ids", "b.txt"], "a.txt cannot be read: No such file"),
    ],
)
def test_options_that_make_no_sense_are_refused(kitti, tmp_path, words, told):
    with pytest.raises(UserError) as error:
        main(["kitti", str(kitti), "--out", str(tmp_path / "coco"), *words])
    assert told in str(error.value)


def test_a_folder_that_is_not_empty_or_not_of_the_format_is_refused(kitti, tmp_path):
    with pytest.raises(UserError, match="is not empty"):
        main(["kitti", str(kitti), "--out", str(kitti)])
    for kind, told in (("voc", "neither VOC2007 or the like nor Annotations"), ("yolo", r"no data\.yaml")):
        with pytest.raises(UserError, match=told):
            main([kind, str(kitti), "--out", str(tmp_path / "coco")])
    with pytest.raises(UserError, match=r"has no annotations/instances_train2017\.json"):
        main(["voc", str(kitti), "--out", str(tmp_path / "coco"), "--back"])


def test_one_image_in_both_splits_is_told(tmp_path, capsys):
    dog = voc_file(voc_object("dog", (9, 1, 1, 9)))
    folder = devkits.write_voc(tmp_path / "VOC2007", {"a": dog}, {"train": ["a"], "val": ["a"]})
    main(["voc", str(folder), "--out", str(tmp_path / "coco")])
    assert "images in both train and val, which make AP on val say little: 1" in capsys.readouterr().err
