"""Whatever is wrong with a build, importing works, the reason is said, and pure PyTorch goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "ops" / "src" / "greedyprune_ops"
CASES = ("not built", "no library", "interface", "broken", "off", "unused")
# PyTorch is imported once: every case is a process that is forked from there, with its own folder first where Python
# looks for packages, and writes what it has to say to a file beside that folder.
USE = """
import os, sys, torch
def use(case):
    if case == "off":
        os.environ["GREEDYPRUNE_OPS"] = "off"
    from greedyprune.ops import ms_deform_attn
    if case == "unused":
        print("greedyprune_ops" in sys.modules)
        return
    weights = torch.ones(1, 1, 1, 1, 1)
    print(ms_deform_attn(torch.ones(1, 4, 1, 3), [(2, 2)], torch.full((1, 1, 1, 1, 1, 2), 0.5), weights))
    from greedyprune.ops.__main__ import main
    main()
for case in sys.argv[1:]:
    if (child := os.fork()) == 0:
        sys.path.insert(0, case)
        sys.stdout = open(f"{case}.txt", "w")
        use(case)
        sys.exit()
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{case} failed")
"""


def package(folder, replace=("", ""), library=None):
    """A copy of greedyprune_ops, its source changed, with `library` as what was built."""
    target = folder / "greedyprune_ops"
    target.mkdir(parents=True)
    for path in SOURCE.glob("*.py"):
        (target / path.name).write_text(path.read_text().replace(*replace))
    if library is not None:
        (target / "libgreedyprune_cpu.so").write_bytes(library)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each case printed."""
    folder = tmp_path_factory.mktemp("built")
    package(folder / "not built")
    package(folder / "no library", library=b"not a library")
    package(folder / "interface", ("INTERFACE = 1", "INTERFACE = 99"))
    package(folder / "unused")
    package(folder / "broken", ("import ctypes", "raise RuntimeError('broken\\nbuild')"))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", USE, *CASES]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {case: (folder / f"{case}.txt").read_text() for case in CASES}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("not built", "not built: run pip install ./ops"),
        ("no library", "cannot be loaded"),
        ("interface", "has interface 99, greedyprune calls 1"),
        ("broken", "broken build"),
        ("off", "switched off by GREEDYPRUNE_OPS=off"),
    ],
)
def test_a_build_that_cannot_be_used_is_named_and_the_twin_runs(said, case, says):
    assert "tensor([[[1., 1., 1.]]])" in said[case]
    (line,) = [line for line in said[case].splitlines() if line.startswith("cpu ")]
    assert line.startswith("cpu   pure PyTorch: ")
    assert says in line


def test_importing_loads_no_library(said):
    assert said["unused"].strip() == "False"
