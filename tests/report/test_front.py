"""The front of a search, as numbers, a table and JSON."""

import json
from dataclasses import replace

import pytest
from rich.cells import cell_len

from greedyprune.report.front import AXES, Front
from greedyprune.search.options import COSTS

from ..helpers.made_up import BASELINE, NAMES, PLAIN, Price, printed, trial

TRIALS = [
    trial(50, 0.55),
    trial(60, 0.54, "pareto"),  # dearer and worse
    trial(40, None),  # not measured
    trial(40, 0.55, "mend"),  # as good as the first, and cheaper
    trial(90, 0.61, "refine"),  # better than dense
    trial(10, 0.0, "pareto"),
]


@pytest.fixture
def front():
    return Front.of(TRIALS, BASELINE, Price())


def test_no_trial_of_the_front_is_dearer_and_no_better_than_another(front):
    assert [point.trial for point in front.points] == [None, 0, 1, 3, 4, 5]
    assert [(point.trial, point.cost, point.ap) for point in front.best] == [
        (5, pytest.approx(20e9), 0.0),
        (3, pytest.approx(80e9), 0.55),
        (4, pytest.approx(180e9), 0.61),
    ]
    assert front.table().row_count == 3


def test_the_dense_model_alone_is_a_front():
    assert [point.phase for point in Front.of([], BASELINE, Price()).best] == [None]


def test_costs_are_told_in_the_unit_of_what_was_saved():
    for kind, unit in (("flops", "20.00 G"), ("params", "20.00 G"), ("latency", "2e+10 ms")):
        assert any(unit in line for line in printed(Front.of(TRIALS, BASELINE, Price(kind)).table()))
    assert set(AXES) == set(COSTS)


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("kind", NAMES)
def test_a_phase_of_any_name_is_a_line_of_the_table(kind, width):
    shown = printed(Front.of([trial(50, 0.55, NAMES[kind])], BASELINE, Price()).table(), width)
    assert all(cell_len(line) <= width for line in shown)
    if kind in PLAIN and width > 40:
        assert any(NAMES[kind] in line for line in shown)


def test_json_tells_every_point_and_which_are_the_front(front):
    told = json.loads(json.dumps(front.to_json(), allow_nan=False))
    assert [point["trial"] for point in told["points"] if point["front"]] == [3, 4, 5]
    assert told["points"][0] == {"trial": None, "phase": None, "cost": 200e9, "ap": 0.6, "front": False}


def test_two_trials_of_one_cost_and_ap_are_one_point_of_the_front():
    twice = [trial(50, 0.55), replace(trial(50, 0.55), phase="move")]
    assert [point.trial for point in Front.of(twice, BASELINE, Price()).best] == [0, None]
