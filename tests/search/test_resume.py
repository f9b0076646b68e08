"""kill -9 at any moment loses at most the trial in flight, and the end is that of an undisturbed search."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from greedyprune import UserError, load_model
from greedyprune.commands.prune import main as prune
from greedyprune.study.reading import load_study

from ..helpers.tiny_search import STEPS, tiny_search, told

# Processes come from a server that has the imports, so that a start takes a fraction of a second.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["greedyprune.commands.prune"])


def run(arguments: list[str]) -> None:
    """The body of a search process; its exit code is the tool's."""
    sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the life of the process)
    try:
        code = prune(arguments)
    except UserError:
        code = 2
    os._exit(code)


def start(arguments: list[str]) -> multiprocessing.process.BaseProcess:
    process = CONTEXT.Process(target=run, args=(arguments,))
    process.start()
    return process


def trials(folder: Path) -> int:
    try:
        return len(load_study(str(folder / "prune.db")).trials)
    except UserError:
        return 0


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tiny_search(tmp_path_factory.mktemp("tiny"))


OWN = {
    "gp": ["--schedule", "gp", "--num_evaluate", "4", "--map_tol", "0.1"],
    "global": [
        *("--calib_images", "4", "--mlp_step", "8", "--rounds", "3", "--map_tol", "0.02", "--pareto", "2"),
        *("--mend_steps", "3", "--mend_images", "4", "--mends", "2", "--refine", "2"),
    ],
}


def arguments(here: list[str], output: Path, schedule: str = "gp") -> list[str]:
    return [*here, "--output_dir", str(output), *STEPS, *OWN[schedule]]


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "kills"), [("gp", 6), ("global", 8)])
def test_kills_end_with_the_trials_and_the_model_of_an_undisturbed_search(
    schedule: str, kills: int, here: list[str], tmp_path: Path
) -> None:
    calm, troubled = tmp_path / "calm", tmp_path / "troubled"
    process = start(arguments(here, calm, schedule))
    process.join()
    assert process.exitcode == 0
    undisturbed = load_study(str(calm / "prune.db")).trials
    pace = sum(trial.seconds for trial in undisturbed) / len(undisturbed)
    assert len(undisturbed) > kills
    assert schedule == "gp" or {trial.phase for trial in undisturbed} >= {"budget", "mend", "pareto", "refine"}

    rng = random.Random(0)
    for _ in range(kills):
        before = trials(troubled)
        process = start(arguments(here, troubled, schedule))
        # Anywhere: while it starts, within a trial, or between two.
        goal = before + rng.randrange(3)
        while process.is_alive() and trials(troubled) < goal:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 2 * pace))
        if not process.is_alive():
            break
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        known = load_study(str(troubled / "prune.db")).trials if trials(troubled) else []
        assert len(known) >= before
        assert told(known) == told(undisturbed[: len(known)])

    process = start(arguments(here, troubled, schedule))
    process.join()
    assert process.exitcode == 0
    assert told(load_study(str(troubled / "prune.db")).trials) == told(undisturbed)
    assert (troubled / "cfgs.json").read_text() == (calm / "cfgs.json").read_text()
    one, other = (json.loads((folder / "result.json").read_text()) for folder in (calm, troubled))
    for key in ("cfgs", "widths", "trial", "schedule", "scorer", "sites"):
        assert one[key] == other[key]
    assert one["slim"]["AP"] == other["slim"]["AP"]
    first, second = (load_model(folder / "slim.safetensors").state_dict() for folder in (calm, troubled))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.slow
def test_a_second_process_is_refused_while_the_first_one_searches(here: list[str], tmp_path: Path) -> None:
    first = start(arguments(here, tmp_path))
    while first.is_alive() and trials(tmp_path) < 1:
        time.sleep(0.02)
    assert first.pid
    os.kill(first.pid, signal.SIGSTOP)  # so that it does not end meanwhile
    second = start(arguments(here, tmp_path))
    second.join()
    assert second.exitcode == 2
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert first.exitcode == -signal.SIGKILL
    with pytest.raises(UserError, match=r"map_tol was 0\.1, now 0\.3"):
        prune([*arguments(here, tmp_path), "--map_tol", "0.3"])
