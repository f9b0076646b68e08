"""The benchmark of the scorers prints and writes what it measured."""

import json
from pathlib import Path

import pytest

from greedyprune.commands.bench_scorers import main
from greedyprune.commands.make_shapes import main as make_shapes
from greedyprune.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes([str(folder), "--train_images", "80", "--val_images", "12", "--workers", "1"])
    return folder


@pytest.fixture
def measure(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs the benchmark, and gives the file that it wrote and the lines that it printed."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(words: str):
        path = tmp_path / "measured.json"
        flags = ["--coco_path", str(data), "--device", "cpu", "--calib_images", "4", "--json", str(path)]
        assert main([*flags, *words.split()]) == 0
        return json.loads(path.read_text()), capsys.readouterr().out.splitlines()

    return run


@pytest.mark.slow
@pytest.mark.parametrize("prune", ["", "--prune heads"])
def test_cutting_costs_ap_and_a_table_says_how_much(prune: str, measure) -> None:
    written, printed = measure(f"{prune} --scorers basis")
    rows, about = written["tables"]["scorers"], written["about"]
    assert [(row["scorer"], row["refit"], row["mend_steps"]) for row in rows] == [
        ("basis", True, 0),
        ("basis", False, 0),
    ]
    for row in rows:
        first, *_, last = row["ap"].values()
        assert len(row["ap"]) == 4
        assert last < first <= about["dense_ap"] + 0.05
    flops = [column["flops"] for column in about["columns"]]
    assert 1 > flops[0] > flops[1] > flops[2] > flops[3] > 0
    shown = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed if "basis" in line]
    assert [cells[4:] for cells in shown] == [[f"{ap:.4f}" for ap in row["ap"].values()] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("widths", [{"decoder.2.ffn": 32}, {"backbone.5.conv1": 16}])
def test_refitted_models_are_mended_where_that_is_asked_for(widths: dict[str, int], measure) -> None:
    words = f"--scorers random --mend_steps 4 --mend_images 8 --widths {json.dumps(widths).replace(' ', '')}"
    rows = measure(words)[0]["tables"]["scorers"]
    assert [(row["refit"], row["mend_steps"]) for row in rows] == [(True, 4), (True, 0), (False, 0)]
    mended, refitted, plain = (row["ap"]["--widths"] for row in rows)
    assert len({mended, refitted, plain}) == 3


@pytest.mark.slow
def test_scorers_order_the_channels_of_the_backbone_each_its_own_way(measure) -> None:
    written, _ = measure("--prune backbone --eval_images 6 --scorers basis magnitude random taylor")
    rows = written["tables"]["scorers"]
    assert sorted({row["scorer"] for row in rows}) == ["basis", "magnitude", "random", "taylor"]
    plain = [tuple(row["ap"].values()) for row in rows if not row["refit"]]
    assert len(set(plain)) == len(plain)


@pytest.mark.slow
def test_any_widths_can_be_measured(measure) -> None:
    widths = {"encoder.0.ffn": 256, "boxes.0": 64, "queries": 40}
    written, _ = measure(f"--widths {json.dumps(widths).replace(' ', '')} --scorers magnitude")
    assert written["about"]["columns"][0]["widths"] == widths
    assert sorted(written["about"]["sites"]) == sorted(widths)
    assert len(written["tables"]["scorers"]) == 2


@pytest.mark.parametrize(
    "words",
    [
        "--mend_images 10",
        "--mend_augment flips --prune all",
        "--mend_augment flips --mend_steps 3",
        "--scorers basis select --prune backbone",
        '--prune encoder --widths {"boxes.0":64}',
    ],
)
def test_an_option_that_does_nothing_is_refused_by_name(words: str) -> None:
    with pytest.raises(UserError, match=rf"^{words.split()[0]} does nothing in this call: .*; leave it out$"):
        main(words.split())


@pytest.mark.parametrize("words", ["--prune queries", '--widths {"queries":40}', '--widths {"boxes.0":128}'])
def test_what_no_scorer_orders_is_refused(words: str) -> None:
    with pytest.raises(UserError, match=rf"^{words.split()[0]} .*no channels"):
        main(words.split())


def test_a_file_that_is_a_folder_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--json .* is a folder; name a file"):
        main(["--json", str(tmp_path)])
