"""Small disks, in a namespace of their own, where the tests may make them."""

import functools
import shlex
import subprocess
from pathlib import Path

import pytest


@functools.cache
def _allowed() -> bool:
    try:
        done = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


def mounted(folder: Path | str, size: str, *command: object, after: str = ":") -> list[str]:
    """The command to run another one where a folder is a disk of this size; `after` is run there, too."""
    if not _allowed():
        pytest.skip("mounting a small disk needs root")
    words = shlex.join(map(str, command))
    disk = f"mount -t tmpfs -o size={size} tmpfs {shlex.quote(str(folder))}"
    return ["unshare", "-m", "sh", "-c", f"{disk} && {words}; code=$?; {after}; exit $code"]
