"""Files are written whole, and what refuses them is named."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from greedyprune.errors import UserError
from greedyprune.files import atomic_write, naming
from greedyprune.tensors import write_tensors

from .mounts import mounted


def test_a_file_has_the_permissions_that_others_get(tmp_path):
    atomic_write(tmp_path / "a" / "x", "text")
    (tmp_path / "y").touch()
    assert (tmp_path / "a" / "x").read_text() == "text"
    assert (tmp_path / "a" / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


def test_a_folder_in_the_way_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match=f"{tmp_path / 'x'}'$"):
        atomic_write(tmp_path / "x", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_name_that_is_too_long_is_told_as_it_was_given(tmp_path):
    with pytest.raises(OSError, match="File name too long") as refusal:
        atomic_write(tmp_path / ("x" * 300), b"")
    assert refusal.value.filename == str(tmp_path / ("x" * 300))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_named():
    with pytest.raises(OSError, match="No space left on device") as refusal, naming("out.json"):
        Path("/dev/full").write_text("x")
    assert (refusal.value.errno, refusal.value.filename) == (errno.ENOSPC, "out.json")


@pytest.mark.parametrize("limit", ["disk", "file"])
def test_a_tool_without_room_names_the_file_and_the_remedy_and_keeps_the_old_one(limit, tmp_path):
    script = """
import resource, sys
from greedyprune.files import atomic_write
from greedyprune.running import run
if sys.argv[2] == "file":
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
run(lambda: atomic_write(sys.argv[1], "old") or atomic_write(sys.argv[1], bytes(2**21)) or 0)
"""
    path, code = tmp_path / "slim.safetensors", [sys.executable, "-c", script]
    command = [*code, str(path), limit]
    if limit == "disk":
        command = mounted(tmp_path, "1m", *command, after=f"ls -A {tmp_path}; cat {path}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    what = "disk full" if limit == "disk" else "file too large for this disk or account"
    assert done.stderr.startswith(f"error: {what}: {path}; ")
    assert done.stderr.count("\n") == 1
    if limit == "disk":
        assert done.stdout == "slim.safetensors\nold"
    else:
        assert (path.read_text(), [each.name for each in tmp_path.iterdir()]) == ("old", [path.name])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_saved(value, tmp_path):
    write_tensors(tmp_path / "x", {"bias": torch.ones(3), "count": torch.tensor(1)})
    before = (tmp_path / "x").read_bytes()
    with pytest.raises(UserError, match=r"x is not written: bias holds values that are not finite"):
        write_tensors(tmp_path / "x", {"bias": torch.tensor([1.0, value])})
    assert (tmp_path / "x").read_bytes() == before
