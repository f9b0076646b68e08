"""Whatever is wrong with a build, importing works, the reason is said, and pure PyTorch goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "ops" / "src" / "greedyprune_ops"

USE = """
import torch
from greedyprune.ops import ms_deform_attn
print(ms_deform_attn(torch.ones(1, 4, 1, 3), [(2, 2)], torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)))
from greedyprune.ops.__main__ import main
main()
"""


def run(folder, code=USE, **environment):
    """Output of `code` with `folder` first where Python looks for packages."""
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def package(folder, replace=("", ""), library=None):
    """A copy of greedyprune_ops, its source changed, with `library` as what was built."""
    target = folder / "greedyprune_ops"
    target.mkdir()
    for path in SOURCE.glob("*.py"):
        (target / path.name).write_text(path.read_text().replace(*replace))
    if library is not None:
        (target / "libgreedyprune_cpu.so").write_bytes(library)
    return folder


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: package(folder), "not built: run pip install ./ops"),
        (lambda folder: package(folder, library=b"not a library"), "cannot be loaded"),
        (lambda folder: package(folder, ("INTERFACE = 1", "INTERFACE = 99")), "has interface 99, greedyprune calls 1"),
        (lambda folder: package(folder, ("import ctypes", "raise RuntimeError('broken\\nbuild')")), "broken build"),
    ],
)
def test_a_build_that_cannot_be_used_is_named_and_the_twin_runs(tmp_path, make, says):
    out = run(make(tmp_path))
    assert "tensor([[[1., 1., 1.]]])" in out
    (line,) = [line for line in out.splitlines() if line.startswith("cpu ")]
    assert line.startswith("cpu   pure PyTorch: ")
    assert says in line


def test_the_switch_keeps_to_pure_pytorch():
    assert "switched off by GREEDYPRUNE_OPS=off" in run(".", GREEDYPRUNE_OPS="off")


def test_importing_loads_no_library():
    out = run(".", "import sys, greedyprune.ops; print('greedyprune_ops' in sys.modules)")
    assert out.strip() == "False"
