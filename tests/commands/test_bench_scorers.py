"""The benchmark of the scorers prints what it measured."""

from pathlib import Path

import pytest

from greedyprune.commands.bench_scorers import main
from greedyprune.commands.make_shapes import main as make_shapes
from greedyprune.errors import UserError


@pytest.mark.parametrize("prune", ["transformer", "backbone"])
def test_cutting_costs_ap_and_a_table_says_how_much(
    prune: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    make_shapes([str(tmp_path / "shapes"), "--train_images", "8", "--val_images", "12", "--workers", "1"])
    flags = ["--coco_path", str(tmp_path / "shapes"), "--device", "cpu", "--calib_images", "4", "--prune", prune]
    assert main([*flags, "--scorers", "basis", "--mend_steps", "8"]) == 0
    title, *rows = [line for line in capsys.readouterr().out.splitlines() if "dense" in line or "basis" in line]
    dense = float(title.split("dense ")[1].split(";")[0])
    measured = [[float(cell) for cell in row.split("│")[5:-1]] for row in rows]
    # Refitted and mended, refitted, neither; what reads the backbone's channels is always refitted.
    assert len(measured) == (3 if prune == "transformer" else 2)
    for row in measured:
        assert len(row) == 4
        assert row[-1] < row[0] <= dense + 0.05


@pytest.mark.parametrize(
    "words",
    [
        "--mend_images 10",
        "--mend_augment flips --prune all",
        "--mend_augment flips --mend_steps 3",
        "--scorers taylor --prune all",
        "--scorers basis select --prune backbone",
    ],
)
def test_an_option_that_does_nothing_is_refused_by_name(words: str) -> None:
    with pytest.raises(UserError, match=rf"^{words.split()[0]} does nothing in this call: .*; leave it out$"):
        main(words.split())
