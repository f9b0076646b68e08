"""The `greedyprune` command: the same as the files in tools/, under one name."""

import configparser
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from greedyprune import entry
from greedyprune.version import __version__

from .processes import start, wait_for_handler

MAIN = "from greedyprune.entry import main; main()"
ROOT = Path(__file__).parents[1]


def called(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", MAIN, *words], capture_output=True, text=True, timeout=120)


def test_the_command_is_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.entry_points"]["console_scripts"].split() == ["greedyprune", "=", "greedyprune.entry:main"]


def test_the_help_fits_a_screen_and_names_every_subcommand():
    done = called("--help")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert all(any(line.split()[:1] == [command] for line in lines) for command in entry.COMMANDS)
    assert called("--version").stdout == f"greedyprune {__version__}\n"


@pytest.mark.parametrize("words", [["polish"], [], ["--map_tol", "0.02"], ["pru\nne"]])
def test_what_is_no_subcommand_is_told_in_one_line(words):
    done = called(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert all(command in done.stderr for command in entry.COMMANDS)


@pytest.mark.slow
def test_a_subcommand_speaks_under_its_own_name():
    done = called("transplant", "--cfgs", "[]", "--db", "prune.db")
    assert (done.returncode, done.stderr) == (2, "error: --cfgs and --db both say what survives; give one of them\n")
    assert called("shapes").stderr.endswith("(see greedyprune shapes --help)\n")


def test_every_subcommand_is_a_tool():
    modules = {module for module, _ in entry.COMMANDS.values()}
    assert all((ROOT / "greedyprune" / "commands" / f"{module}.py").is_file() for module in modules)
    text = "".join(path.read_text() for path in (ROOT / "tools").glob("*.py"))
    assert all(f'run_command("{module}"' in text for module in modules - {"ops"})


@pytest.mark.slow
def test_deformable_attention_says_which_implementation_runs():
    done = called("ops")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["cpu", "cuda"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_signal_ends_a_subcommand_with_a_line_while_its_libraries_are_loaded(tmp_path):
    process = start("-c", MAIN, "eval", cwd=tmp_path)
    wait_for_handler(process, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)
    _, printed = process.communicate(timeout=60)
    assert (process.returncode, printed) == (128 + signal.SIGTERM, "\ninterrupted\n")


@pytest.mark.parametrize(
    ("program", "alone", "many", "other"),
    [
        ("tools/train.py", "python tools/train.py", "torchrun tools/train.py", "python tools/eval.py"),
        ("greedyprune train", "greedyprune train", "torchrun --no-python greedyprune train", "greedyprune eval"),
        (
            "greedyprune polish/x.py",
            "python greedyprune polish/x.py",
            "torchrun greedyprune polish/x.py",
            "python tools/eval.py",
        ),
    ],
)
def test_a_command_is_repeated_as_it_was_called(program, alone, many, other, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program])
    assert " ".join(entry.again()) == alone
    assert " ".join(entry.again("torchrun")) == many
    assert entry.tool("eval") == other
