import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from greedyprune.commands.train import main
from greedyprune.errors import UserError
from greedyprune.models import save_checkpoint
from greedyprune.training.distributed import open_world
from greedyprune.training.state import LAST

from ..evaluation.tiny_coco import MOVED, RENAMED, renumber
from .tiny_training import farthest, losses, read_log, small_model, write_data

TOOL = Path(__file__).parents[2] / "tools" / "train.py"


def torchrun(*words):
    """Two processes of the tool, as a user starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    starter = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    return subprocess.run([*starter, str(TOOL), *words], capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "words", "of_two"),
    [
        # Every image has two objects: the denoising groups of a part are then as wide as those of the whole batch.
        ({}, "--label_noise_scale 0 --box_noise_scale 0 --train_images 8 --new_classes --ema 0.5", ""),
        # With the empty image a process may have no object in a part. A single decoder layer leaves weights unused.
        ({"dec_layers": 1}, "--no_dn", "--accumulate 2"),
    ],
)
def test_two_processes_train_as_one_with_the_same_batch(tmp_path, model, words, of_two):
    data = write_data(tmp_path / "data")
    if "--new_classes" in words:
        renumber(data, RENAMED, MOVED)
    save_checkpoint(small_model(freeze_norm=True, **model), tmp_path / "model.safetensors")
    paths = ["--resume", str(tmp_path / "model.safetensors"), "--coco_path", str(tmp_path / "data")]
    settings = "--epochs 2 --batch_size 4 --log_every 1 --augment none --lr 1e-3 --device cpu --threads 1"
    command = [*paths, *settings.split(), *words.split(), "--output_dir"]
    main([*command, str(tmp_path / "one")])
    done = torchrun(*command, str(tmp_path / "two"), *of_two.split())
    assert done.returncode == 0, done.stderr

    one, two = (read_log(tmp_path / name) for name in ("one", "two"))
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    for name, tolerance in (("grad_norm", 1e-4), ("loss_giou", 1e-4), ("AP", 1e-6)):
        numbers = [[record[name] for record in log if name in record] for log in (one, two)]
        assert len(numbers[0]) >= 2
        assert numbers[1] == pytest.approx(numbers[0], rel=tolerance)
    assert farthest(tmp_path / "one" / LAST, tmp_path / "two" / LAST) < 1e-4


@pytest.mark.slow
def test_what_every_process_fails_of_is_told_once_and_in_the_report_of_torchrun(tmp_path):
    done = torchrun("--resume", "nowhere.pth", "--device", "cpu", "--output_dir", str(tmp_path))
    line = "checkpoint nowhere.pth does not exist"
    told = [each for each in done.stderr.splitlines() if line in each]
    assert done.returncode != 0
    assert told == [f"error: {line}", f"  traceback : {line}"]
    assert done.stderr.count("Traceback") == 1  # torchrun's own


@pytest.mark.slow
def test_one_of_two_processes_that_fails_is_the_one_that_tells(tmp_path):
    data = write_data(tmp_path / "data")
    save_checkpoint(small_model(freeze_norm=True), tmp_path / "model.safetensors")
    (data / "train2017" / "3.png").write_bytes(b"")
    paths = ["--resume", str(tmp_path / "model.safetensors"), "--coco_path", str(data)]
    settings = "--epochs 9 --batch_size 4 --augment none --device cpu --threads 1 --output_dir"
    done = torchrun(*paths, *settings.split(), str(tmp_path / "out"))
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, done.stderr
    assert told[0].startswith("error: image 30 (")
    assert done.stderr.count("Traceback") == 1  # torchrun's own


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "two"), ("WORLD_SIZE", "2")])
def test_an_environment_that_torchrun_did_not_make_is_refused(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"WORLD_SIZE is .*use torchrun"), open_world(torch.device("cpu")):
        pass
