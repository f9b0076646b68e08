import subprocess
import sys

import pytest
import torch

from greedyprune import UserError
from greedyprune.training.state import STATE, Folder, Position, check_settings, read_state, save_state


def test_a_state_comes_back_as_it_was(tmp_path):
    position = Position(7, 1, 3.5, {"AP": 0.25, "per_class": {"a": 0.5}}, 0.25, 1, {"scale": 8.0})
    tensors = {"model": {"a.b": torch.randn(2, 3)}, "optimizer": {"a.b/step": torch.tensor(7.0)}}
    save_state(tmp_path, position, {"lr": 1e-4, "names": ("x",)}, tensors)
    found, settings, back = read_state(tmp_path)
    assert found == position
    assert settings == {"lr": 1e-4, "names": ["x"]}
    assert back.keys() == tensors.keys()
    assert torch.equal(back["model"]["a.b"], tensors["model"]["a.b"])
    assert torch.equal(back["optimizer"]["a.b/step"], torch.tensor(7.0))


def test_a_folder_without_state_is_a_new_training(tmp_path):
    assert read_state(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"not a state", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_broken_state_is_refused_with_its_path(tmp_path, content):
    (tmp_path / STATE).write_bytes(content)
    with pytest.raises(UserError, match=r"state\.safetensors is broken or not a training's state"):
        read_state(tmp_path)


def test_other_settings_are_refused_with_both_values(tmp_path):
    stored = {"lr": 1e-4, "epochs": 12, "names": ["x"]}
    check_settings(stored, {**stored, "names": ("x",)}, {}, tmp_path)
    with pytest.raises(UserError) as refusal:
        check_settings(stored, {**stored, "lr": 2e-4, "epochs": 50}, {}, tmp_path)
    assert "lr is 0.0001 there and 0.0002 here; epochs is 12 there and 50 here" in str(refusal.value)


def test_an_option_that_the_state_is_too_old_to_know_had_its_default(tmp_path):
    check_settings({"lr": 1e-4}, {"lr": 1e-4, "new": 0}, {"new": 0}, tmp_path)
    with pytest.raises(UserError, match="new is 0 there and 1 here"):
        check_settings({"lr": 1e-4}, {"lr": 1e-4, "new": 1}, {"new": 0}, tmp_path)


@pytest.mark.slow
def test_two_trainings_in_one_folder_are_refused_and_a_dead_one_is_no_obstacle(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from greedyprune.training.state import Folder\n"
        "with Folder(Path(sys.argv[1])): print('in', flush=True); time.sleep(100)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"in\n"
        with pytest.raises(UserError, match=f"process {holder.pid}"), Folder(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with Folder(tmp_path):
        pass


def test_leftovers_of_a_killed_write_are_removed(tmp_path):
    (tmp_path / f".{STATE}.k3j2h1").write_bytes(b"half")
    with Folder(tmp_path):
        assert not list(tmp_path.glob(f".{STATE}.*"))


def test_checkpoints_that_are_not_of_a_training_are_not_overwritten(tmp_path):
    (tmp_path / "best.safetensors").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"holds best\.safetensors but no training"), Folder(tmp_path):
        pass
    assert (tmp_path / "best.safetensors").read_bytes() == b"precious"


def test_an_output_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"), Folder(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="cannot be written to"), Folder(tmp_path / "file" / "below"):
        pass
