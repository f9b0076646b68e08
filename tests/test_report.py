"""Tables show any text as it is, one line for each class."""

import io

import pytest
from rich.cells import cell_len
from rich.table import Table

from greedyprune.evaluation.ap import AP_NAMES, AR_NAMES, unique_names
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.evaluate import EvalResult
from greedyprune.report import class_table, open_console, print_evaluation
from greedyprune.search.picture import Axis, Point, draw_front

NAMES = {
    "brackets": "car [front]",
    "closing": "[/red]",
    "style": "[bold]x[/bold]",
    "emoji code": ":car:",
    "emoji": "\U0001f697 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "lines": "two\nlines\tand a tab",
    "control": "\x1b[31mred\x07",
    "empty": "",
    "blank": " ",
    "long": "x" * 300,
    "surrogate": "lone \ud800",
    "wide": "\u6c7d\u8f66" * 50,
    "backwards": "\u202eabc",
}


def result(names):
    numbers = dict.fromkeys((*AP_NAMES, *AR_NAMES), 0.5)
    accuracy = {**numbers, "per_class": dict.fromkeys(names, 0.125)}
    measured = {"params": 1, "transformer_params": 1, "flops": 1, "transformer_flops": 1, "latency_ms": None}
    about = {"threads": 1, "dtype": "float32", "images": 3, "image_seed": None, "image_size": (48, 64)}
    return EvalResult(accuracy, **measured, device="cuda:0 ([/GPU])", **about, detections=Detections.from_rows(()))


def lines(table: Table, width: int = 80) -> list[str]:
    console = open_console(io.StringIO())
    console.width = width
    console.print(table)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [24, 80, 200])
@pytest.mark.parametrize("kind", NAMES)
def test_a_class_of_any_name_is_one_line_of_the_table(kind, width):
    shown = lines(class_table(result([NAMES[kind]]), width), width)
    assert len(shown) == 5
    assert shown[3].count("0.1250") == 1
    assert all(cell_len(line) <= width for line in shown)
    assert not any(ord(letter) < 32 for line in shown for letter in line)


@pytest.mark.parametrize("kind", ["brackets", "closing", "style", "emoji code", "emoji"])
def test_a_name_is_shown_as_it_is(kind):
    assert NAMES[kind] in lines(class_table(result([NAMES[kind]])))[3]


def test_cocos_names_have_three_columns_and_longer_ones_fewer():
    for longest, below in ((14, 2), (27, 2), (28, 4)):
        assert len(lines(class_table(result(["x" * longest, "b", "c", "d"])))) == 4 + below


def test_names_that_are_shown_alike_stay_apart():
    assert sum(line.count("0.1250") for line in lines(class_table(result(["a\n", "a\\n"])))) == 2


def test_an_evaluation_is_printed_on_any_device(capsys):
    print_evaluation(result(["a"]))
    assert "cuda:0 ([/GPU])" in capsys.readouterr().out


def test_names_that_several_categories_have_are_told_apart_by_id():
    categories = [(1, "car (2)"), (2, "car"), (3, "car"), (4, "bus")]
    assert unique_names({"id": number, "name": name} for number, name in categories) == [
        "car (2) (1)",
        "car (2) (2)",
        "car (3)",
        "bus",
    ]


def test_a_plot_takes_any_text():
    axis = Axis("lone \ud800\nof", lambda cost: f"{cost:g}\n[/red] \ud801")
    points = [Point(None, "dense", 2.0, 0.5), Point(1, "budget", 1.0, 0.4)]
    assert draw_front(points, points[::-1], axis, 0.3).width > 500
