import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from greedyprune import UserError, load_model, transplant
from greedyprune.commands.train import main
from greedyprune.models import save_checkpoint
from greedyprune.training.state import BEST, LAST, LOG, STATE

from ..training.tiny_training import farthest, losses, read_log, small_model, write_data

TOOL = Path(__file__).parents[2] / "tools" / "train.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    write_data(folder / "data")
    save_checkpoint(small_model(), folder / "model.safetensors")
    return folder


@pytest.fixture
def arguments(folder):
    return [
        *("--resume", str(folder / "model.safetensors"), "--coco_path", str(folder / "data"), "--device", "cpu"),
        *("--threads", "1", "--batch_size", "4", "--augment", "flips", "--log_every", "1"),
    ]


def start(*words):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(TOOL), *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def wait_for_steps(output, steps, process):
    """Until the log has so many lines of steps."""
    while process.poll() is None:
        if (output / LOG).exists() and (output / LOG).read_text().count('"loss"') >= steps:
            return
        time.sleep(0.01)
    raise AssertionError(process.stderr.read())


@pytest.mark.slow
def test_a_training_that_is_killed_twice_ends_with_the_weights_of_an_undisturbed_one(folder, arguments, tmp_path):
    settings = "--epochs 12 --save_every 3 --ema 0.9 --eval_every 5 --num_workers 1"
    words = [*arguments, *settings.split()]
    assert main([*words, "--output_dir", str(tmp_path / "straight")]) == 0
    killed = tmp_path / "killed"
    chance = random.Random()
    for steps in (5, 14):
        process = start(*words, "--output_dir", killed)
        wait_for_steps(killed, steps, process)
        time.sleep(chance.random() * 0.3)
        process.kill()
        process.communicate()
    assert main([*words, "--output_dir", str(killed)]) == 0
    for name in (STATE, LAST, BEST):
        assert farthest(tmp_path / "straight" / name, killed / name) == 0
    once, again = (read_log(tmp_path / name) for name in ("straight", "killed"))
    assert losses(again) == losses(once)
    assert [(r["step"], r.get("AP")) for r in again] == [(r["step"], r.get("AP")) for r in once]


@pytest.mark.slow
def test_a_signal_to_the_whole_group_ends_it_cleanly_with_the_command_to_go_on(arguments, tmp_path):
    words = [*arguments, "--epochs", "1000", "--num_workers", "1", "--output_dir", str(tmp_path)]
    process = start(*words)
    wait_for_steps(tmp_path, 3, process)
    os.killpg(process.pid, signal.SIGTERM)
    _, printed = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    last = printed.strip().splitlines()[-1]
    assert last.startswith("interrupted: the state of step ")
    assert last.endswith(f"to go on: python {shlex.join([str(TOOL), *words])}")
    assert "Traceback" not in printed
    assert read_log(tmp_path)[-1]["step"] == int(last.split("state of step ")[1].split()[0])


def test_a_finished_training_says_so_and_changes_nothing(arguments, tmp_path, capsys):
    words = [*arguments, "--epochs", "1", "--output_dir", str(tmp_path / "out")]
    assert main(words) == 0
    first = capsys.readouterr().out
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert main(words) == 0
    assert capsys.readouterr().out == first
    assert first.startswith("finished: 1 epochs, 2 steps in ")
    assert f"best: {tmp_path / 'out' / BEST}, AP " in first
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_another_training_in_the_same_folder_is_refused_with_what_differs(folder, arguments, tmp_path):
    words = [*arguments, "--epochs", "1", "--output_dir", str(tmp_path)]
    assert main(words) == 0
    before = (tmp_path / STATE).read_bytes()
    other = small_model()
    torch.nn.init.zeros_(other.class_embed.weight)
    save_checkpoint(other, folder / "other.safetensors")
    with pytest.raises(UserError, match=r"epochs is 1 there and 2 here; lr is 0\.0001 there and 0\.001 here"):
        main([*words, "--epochs", "2", "--lr", "1e-3"])
    with pytest.raises(UserError, match="weights is "):
        main([*words, "--resume", str(folder / "other.safetensors")])
    with pytest.raises(UserError, match="teacher is "):
        main([*words, "--teacher", str(folder / "other.safetensors")])
    assert (tmp_path / STATE).read_bytes() == before
    assert main([*words, "--save_every", "7", "--num_workers", "1", "--accumulate", "2"]) == 0


def test_a_new_model_gets_its_classes_from_the_data_and_its_shape_from_the_flags(folder, tmp_path):
    shape = "--hidden_dim 16 --heads 2 --enc_layers 1 --dec_layers 2 --ffn_dim 8 --num_queries 9 --backbone small"
    size = "--short_side 48 --long_side 64 --activation relu --cfgs [[[8, 8]], [[16, 8, 8], [16, 16, 4]]]"
    words = f"--model dn_detr {shape} {size} --epochs 1 --batch_size 4 --device cpu --threads 1 --augment none"
    assert main([*words.split(), "--coco_path", str(folder / "data"), "--output_dir", str(tmp_path)]) == 0
    model = load_model(tmp_path / LAST)
    assert model.info.class_names == ("box", "disc")
    assert model.info.category_ids == (3, 8)
    assert (model.info.short_side, model.info.long_side) == (48, 64)
    assert (model.options.hidden_dim, model.options.num_classes, model.options.activation) == (16, 2, "relu")
    assert model.options.layout.to_list(model.widths) == [[[8, 8]], [[16, 8, 8], [16, 16, 4]]]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--hidden_dim", "32"], "--hidden_dim is for training from scratch with --model"),
        (["--model", "dn_detr"], "--model starts from random weights and --resume from a checkpoint"),
        (["--amp", "fp16"], "--amp fp16 needs a GPU"),
        (["--batch_size", "10"], "9 training images, fewer than --batch_size 10"),
        (["--epochs", "x"], "argument --epochs: 'x' is not a whole number of at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line_before_anything_is_written(arguments, tmp_path, words, line):
    with pytest.raises(UserError) as refusal:
        main([*arguments, "--output_dir", str(tmp_path / "out"), *words])
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out" / STATE).exists()


def test_a_checkpoint_in_the_output_folder_is_not_overwritten(arguments, folder):
    with pytest.raises(UserError, match="lies in --output_dir"):
        main([*arguments, "--output_dir", str(folder)])


def test_data_of_other_categories_is_refused(folder, arguments, tmp_path):
    model = small_model(num_classes=3)
    object.__setattr__(model, "info", type(model.info)(("box", "ring", "star"), (3, 8, 10), 48, 64))
    save_checkpoint(model, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"category 8 \(disc; ring in the model\) .* --new_classes"):
        main([*arguments, "--resume", str(tmp_path / "other.safetensors"), "--output_dir", str(tmp_path / "out")])


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_without_any_object_are_trained_and_evaluated_on(arguments, split, tmp_path, capsys):
    data = write_data(tmp_path / "data")
    path = data / "annotations" / f"instances_{split}2017.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    words = [*arguments, "--coco_path", str(data), "--epochs", "1", "--output_dir", str(tmp_path / "out")]
    assert main(words) == 0
    assert (f"{LAST}, AP -\n" in capsys.readouterr().out) == (split == "val")


def test_data_without_training_images_are_named(arguments, tmp_path):
    data = write_data(tmp_path / "data")
    path = data / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": [], "images": []}))
    with pytest.raises(UserError, match=r"there are no images in .*train2017 to train on"):
        main([*arguments, "--coco_path", str(data), "--output_dir", str(tmp_path / "out")])


def test_a_broken_image_is_named_in_one_line_also_from_a_worker(arguments, tmp_path):
    data = write_data(tmp_path / "data")
    (data / "train2017" / "5.png").write_bytes(b"not an image")
    with pytest.raises(UserError) as refusal:
        main([*arguments, "--coco_path", str(data), "--output_dir", str(tmp_path / "out"), "--num_workers", "1"])
    assert str(refusal.value).startswith("image 50 (")
    assert "\n" not in str(refusal.value)


def test_backbone_weights_start_a_resnet_and_those_of_another_are_refused(folder, tmp_path):
    import torchvision

    network = torchvision.models.resnet18(weights=None)
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    shape = "--model dn_detr --hidden_dim 16 --heads 2 --enc_layers 1 --dec_layers 1 --ffn_dim 8 --num_queries 5"
    words = f"{shape} --steps 1 --batch_size 2 --device cpu --threads 1 --short_side 48 --long_side 64 --eval_images 1"
    paths = ["--coco_path", str(folder / "data"), "--output_dir", str(tmp_path / "out")]
    weights = ["--backbone_weights", str(tmp_path / "resnet18.pth")]
    with pytest.raises(UserError, match=r"is not of resnet34: layer1\.2\.conv1\.weight has shape none there"):
        main([*words.split(), *paths, *weights, "--backbone", "resnet34"])
    assert main([*words.split(), *paths, *weights, "--backbone", "resnet18"]) == 0
    trained = load_model(tmp_path / "out" / LAST).backbone[0].body
    assert torch.equal(trained.layer1[0].conv1.weight, network.layer1[0].conv1.weight)


def test_a_detector_with_a_slim_backbone_is_fine_tuned_at_its_widths(arguments, tmp_path):
    slim = transplant(small_model(), {"backbone.0.conv1": range(10), "backbone.5.conv1": range(3, 60)})
    save_checkpoint(slim, tmp_path / "slim.safetensors")
    words = [*arguments, "--resume", str(tmp_path / "slim.safetensors"), "--epochs", "1"]
    assert main([*words, "--output_dir", str(tmp_path / "tuned")]) == 0
    tuned = load_model(tmp_path / "tuned" / LAST)
    assert tuned.widths == slim.widths
    assert [tuned.widths[f"backbone.{block}.conv1"] for block in range(6)] == [10, 48, 96, 96, 144, 57]
    assert farthest(tmp_path / "slim.safetensors", tmp_path / "tuned" / LAST) > 0
