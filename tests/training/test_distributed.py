import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from greedyprune.models import save_checkpoint
from greedyprune.training.state import LAST

from .tiny_training import farthest, losses, read_log, small_model, write_data

TOOL = Path(__file__).parents[2] / "tools" / "train.py"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train(folder, name, processes, model, *words):
    starter = [sys.executable]
    if processes > 1:
        starter += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={free_port()}"]
    arguments = ["--resume", model, "--coco_path", folder / "data", "--output_dir", folder / name, "--device", "cpu"]
    settings = [
        "--epochs",
        "2",
        "--batch_size",
        "4",
        "--log_every",
        "1",
        "--threads",
        "1",
        "--augment",
        "none",
        "--lr",
        "1e-3",
    ]
    command = [*starter, TOOL, *arguments, *settings, *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return read_log(folder / name)


@pytest.mark.parametrize(
    "words", [("--label_noise_scale", "0", "--box_noise_scale", "0", "--train_images", "8"), ("--no_dn",)]
)
def test_two_processes_train_as_one_with_the_same_batch(tmp_path, words):
    # With all nine images one process may have no object at all; without denoising that makes no difference.
    write_data(tmp_path / "data")
    save_checkpoint(small_model(freeze_norm=True), tmp_path / "model.safetensors")
    one, two = (train(tmp_path, str(n), n, tmp_path / "model.safetensors", *words) for n in (1, 2))
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert [r["grad_norm"] for r in two if "loss" in r] == pytest.approx(
        [r["grad_norm"] for r in one if "loss" in r], rel=1e-4
    )
    assert [r["AP"] for r in two if "AP" in r] == pytest.approx([r["AP"] for r in one if "AP" in r], abs=1e-6)
    assert farthest(tmp_path / "1" / LAST, tmp_path / "2" / LAST) < 1e-4


def test_a_single_decoder_layer_trains_on_two_processes(tmp_path):
    write_data(tmp_path / "data")
    save_checkpoint(small_model(freeze_norm=True, dec_layers=1), tmp_path / "model.safetensors")
    records = train(tmp_path, "out", 2, tmp_path / "model.safetensors", "--steps", "2", "--accumulate", "2")
    assert len(losses(records)) == 2
    assert all(torch.isfinite(torch.tensor(losses(records))))
