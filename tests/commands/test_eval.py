import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from greedyprune import UserError
from greedyprune.cli import run
from greedyprune.commands.eval import main
from greedyprune.models import save_checkpoint

from ..evaluation.tiny_coco import tiny_model, write_tiny

TOOL = Path(__file__).parents[2] / "tools" / "eval.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    write_tiny(folder / "data")
    save_checkpoint(tiny_model(), folder / "model.safetensors")
    return folder


@pytest.fixture
def arguments(folder):
    return [
        *("--resume", str(folder / "model.safetensors"), "--coco_path", str(folder / "data")),
        *("--device", "cpu", "--threads", "1", "--latency_runs", "0"),
    ]


def tool(*words):
    """The tool as a user starts it, without a terminal."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, TOOL, *words], capture_output=True, text=True, timeout=600, env=environment)


@pytest.mark.slow
def test_json_is_one_object_on_stdout_and_nothing_else_anywhere(arguments):
    done = tool(*arguments, "--json", "--eval_images", "4", "--seed", "3", "--num_workers", "1", "--latency_runs", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert (result["images"], result["image_seed"], result["image_size"]) == (4, 3, [48, 64])
    assert result["params"] == sum(parameter.numel() for parameter in tiny_model().parameters())


def test_without_json_the_numbers_are_tables(arguments, capsys):
    assert main(arguments) == 0
    printed = capsys.readouterr()
    for text in ("COCO boxes, 6 images", "AP_small", "AR100", "disc", "multiply-adds", "64 x 48, float32 on cpu"):
        assert text in printed.out
    assert printed.err == ""


def test_the_same_call_prints_the_same_line(arguments, capsys):
    lines = []
    for _ in range(2):
        main([*arguments, "--json"])
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1]


def test_pictures_are_written_where_asked(arguments, tmp_path):
    main([*arguments, "--draw", str(tmp_path / "pictures"), "--draw_images", "3", "--draw_score", "0"])
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["1_10.png", "2_20.png", "3_30.png"]


@pytest.mark.parametrize("quoted", [True, False])
def test_cfgs_may_be_given_when_they_are_the_checkpoints_own(arguments, quoted, capsys):
    text = "[[[16, 8]], [[16, 16, 8]]]"
    assert main([*arguments, "--cfgs", *([text] if quoted else text.split())]) == 0


def test_cfgs_that_differ_name_the_layer_and_both_numbers(arguments):
    with pytest.raises(UserError, match=r"decoder layer 0: cross is 8 in --cfgs and 16 in the checkpoint"):
        main([*arguments, "--cfgs", "[[[16, 8]], [[16, 8, 8]]]"])


@pytest.mark.parametrize("words", [["[[[16,", "8]]"], ["[[16, 8], [16, 16, 8]]"], ["[[[16, 8]], [[15, 16, 8]]]"]])
def test_cfgs_that_make_no_sense_are_refused(arguments, words):
    with pytest.raises(UserError, match="--cfgs"):
        main([*arguments, "--cfgs", *words])


def broken(folder, name, change):
    """The model's file with other bytes."""
    path = folder / name
    path.write_bytes(change((folder / "model.safetensors").read_bytes()))
    return path


def complaint(argv, capsys):
    """What the tool says on stderr when it exits with code 2."""
    with pytest.raises(SystemExit) as stop:
        run(lambda: main(argv))
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (2, "")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--resume", "nowhere.safetensors"], "error: checkpoint nowhere.safetensors does not exist\n"),
        (["--device", "cuda"], "error: --device cuda: PyTorch sees no CUDA device here; use --device cpu\n"),
        (["--eval_images", "-3"], "error: argument --eval_images: '-3' is not a whole number of at least 0"),
        (["--draw", "/proc/version"], "error: a file of that name is in the way: /proc/version\n"),
    ],
)
def test_arguments_that_cannot_be_met_are_one_line(arguments, words, line, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert complaint([*arguments, *words], capsys).startswith(line)


def test_a_truncated_checkpoint_is_named(arguments, folder):
    path = broken(folder, "short.safetensors", lambda data: data[: len(data) // 2])
    with pytest.raises(UserError, match=r"short\.safetensors is broken, truncated"):
        main([*arguments, "--resume", str(path)])


def test_a_data_folder_without_annotations_is_named(arguments, tmp_path):
    with pytest.raises(UserError, match=r"instances_val2017\.json"):
        main([*arguments, "--coco_path", str(tmp_path)])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_image_that_is_listed_but_broken_is_named(arguments, tmp_path, workers, capsys):
    image = write_tiny(tmp_path / "data") / "val2017" / "3.png"
    image.write_bytes(image.read_bytes()[:100])
    line = complaint([*arguments, "--coco_path", str(tmp_path / "data"), "--num_workers", workers], capsys)
    assert line.startswith(f"error: image 30 ({image}) cannot be read")


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ({3: "box"}, r"detects 1 classes and .* has 2: category 8 \(disc\) of the data is none of the model's"),
        ({3: "box", 8: "cat"}, r"category 8 \(disc; cat in the model\) of the data is none of the model's"),
    ],
)
def test_a_model_of_other_classes_is_refused_with_the_first_that_differs(arguments, tmp_path, categories, message):
    save_checkpoint(tiny_model(categories), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=message):
        main([*arguments, "--resume", str(tmp_path / "other.safetensors")])


def test_a_model_that_knows_more_classes_than_the_data_is_evaluated_on_what_there_is(arguments, tmp_path, capsys):
    save_checkpoint(tiny_model({1: "cat", 3: "box", 8: "disc"}), tmp_path / "more.safetensors")
    main([*arguments, "--resume", str(tmp_path / "more.safetensors"), "--json"])
    assert set(json.loads(capsys.readouterr().out)["per_class"]) == {"box", "disc"}


def test_the_labels_of_a_published_state_dict_are_the_data_sets_category_ids(arguments, tmp_path, capsys):
    torch.save({"model": tiny_model(dict(enumerate("abcdefghi"))).state_dict()}, tmp_path / "published.pth")
    assert main([*arguments, "--resume", str(tmp_path / "published.pth"), "--json", "--eval_images", "1"]) == 0
    assert set(json.loads(capsys.readouterr().out)["per_class"]) == {"box", "disc"}


def test_labels_that_do_not_reach_the_data_sets_category_ids_are_refused(arguments, tmp_path):
    torch.save({"model": tiny_model(dict(enumerate("abcdefgh"))).state_dict()}, tmp_path / "published.pth")
    with pytest.raises(UserError, match="category 8"):
        main([*arguments, "--resume", str(tmp_path / "published.pth")])
