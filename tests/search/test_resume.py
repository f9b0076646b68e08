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
from greedyprune.search.study import load_result

from greedyprune import load_model
from greedyprune.commands.make_shapes import main as make_shapes
from greedyprune.commands.prune import main as prune
from greedyprune.errors import UserError

KILLS = 20
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
        return len(load_result(str(folder / "prune.db"))[1])
    except UserError:
        return 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes([str(folder), "--train_images", "8", "--val_images", "16", "--workers", "1"])
    return folder


def arguments(data: Path, output: Path, schedule: str = "gp") -> list[str]:
    sizes = {"subset_images": 6, "score_images": 2, "attn_step": 4, "ffn_step": 128, "batch_size": 8}
    own = {
        "gp": {"num_evaluate": 40},
        "global": {
            "calib_images": 4,
            "rounds": 3,
            "mend_steps": 2,
            "mend_images": 4,
            "mends": 2,
            "pareto": 2,
            "refine": 2,
        },
    }
    flags = [word for name, value in (sizes | own[schedule]).items() for word in (f"--{name}", str(value))]
    flags += ["--schedule", schedule]
    return ["--coco_path", str(data), "--output_dir", str(output), "--threads", "1", "--device", "cpu", *flags]


@pytest.mark.parametrize(("schedule", "kills"), [("gp", KILLS), ("global", 8)])
def test_kills_end_with_the_cfgs_and_kept_sets_of_an_undisturbed_search(
    schedule: str, kills: int, data: Path, tmp_path: Path
) -> None:
    calm, troubled = tmp_path / "calm", tmp_path / "troubled"
    process = start(arguments(data, calm, schedule))
    process.join()
    assert process.exitcode == 0
    undisturbed = load_result(str(calm / "prune.db"))[1]
    pace = sum(record.seconds for record in undisturbed) / len(undisturbed)
    assert len(undisturbed) > kills

    rng = random.Random(0)
    for _ in range(kills):
        before = trials(troubled)
        process = start(arguments(data, troubled, schedule))
        # Anywhere: while it starts, within a trial, or between two.
        goal = before + rng.randrange(3)
        while process.is_alive() and trials(troubled) < goal:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2 * pace))
        if not process.is_alive():
            break
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        known = load_result(str(troubled / "prune.db"))[1] if (troubled / "prune.db").exists() else []
        assert len(known) >= before
        assert [record.origin for record in known] == [record.origin for record in undisturbed[: len(known)]]

    process = start(arguments(data, troubled, schedule))
    process.join()
    assert process.exitcode == 0
    records = load_result(str(troubled / "prune.db"))[1]
    assert [r.origin for r in records] == [r.origin for r in undisturbed]
    assert [(r.subset_map, r.full_map) for r in records] == [(r.subset_map, r.full_map) for r in undisturbed]
    assert (troubled / "cfgs.json").read_text() == (calm / "cfgs.json").read_text()
    results = [json.loads((folder / "result.json").read_text()) for folder in (calm, troubled)]
    for key in ("cfgs", "schedule", "scorer"):
        assert results[0][key] == results[1][key]
    assert results[0]["slim"]["AP"] == results[1]["slim"]["AP"]
    one, other = (load_model(folder / "slim.safetensors").state_dict() for folder in (calm, troubled))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_second_process_is_refused_while_the_first_one_searches(data: Path, tmp_path: Path) -> None:
    first = start(arguments(data, tmp_path))
    while first.is_alive() and trials(tmp_path) < 1:
        time.sleep(0.02)
    second = start(arguments(data, tmp_path))
    second.join()
    assert second.exitcode == 2
    assert first.is_alive()
    assert first.pid
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    with pytest.raises(UserError, match=r"map_tol was 0\.02, now 0\.3"):
        prune([*arguments(data, tmp_path), "--map_tol", "0.3"])
