"""Tables say what was measured, whatever things are called and however narrow the terminal is."""

import json
import math
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from greedyprune.evaluation.accuracy import unique_names
from greedyprune.evaluation.metrics import METRICS
from greedyprune.report.front import Front
from greedyprune.report.result import SitesCost, Spent, Summary
from greedyprune.report.tables import (
    class_table,
    compared_rows,
    comparison_table,
    cost_table,
    print_evaluation,
    site_rows,
    site_table,
)
from greedyprune.sites import CountSite

from ..helpers.made_up import BASELINE, NAMES, PLAIN, Price, evaluated, layered_sites, printed, trial

WIDTHS = [40, 80, 120]


def summary(kind="flops", **about):
    sites = SitesCost.of(Price(kind), {"site": 40})
    dense, slim = evaluated(1.0, **about), evaluated(0.75, **about)
    return Summary([[[8]]], {"site": 40}, 0, "global", "basis", Spent(9.0, 800), sites, dense, slim)


def fits(lines, width):
    """Nothing is wider than the terminal, and nothing in it moves its cursor."""
    return all(cell_len(line) <= width and not any(ord(letter) < 32 for letter in line) for line in lines)


@pytest.mark.parametrize("width", [24, *WIDTHS])
@pytest.mark.parametrize("kind", NAMES)
def test_a_class_of_any_name_is_one_line_of_the_table(kind, width):
    shown = printed(class_table(evaluated(classes=[NAMES[kind]]), width), width)
    assert len(shown) == 5
    assert shown[3].count("0.1250") == 1
    assert fits(shown, width)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_name_is_shown_as_it_is_even_where_a_console_reads_markup(kind):
    for console in (None, Console()):
        assert NAMES[kind] in printed(class_table(evaluated(classes=[NAMES[kind]])), console=console)[3]


def test_cocos_names_have_three_columns_and_longer_ones_fewer():
    for longest, below in ((14, 2), (27, 2), (28, 4)):
        assert len(printed(class_table(evaluated(classes=["x" * longest, "b", "c", "d"])))) == 4 + below


def test_names_that_are_shown_alike_stay_apart():
    assert sum(line.count("0.1250") for line in printed(class_table(evaluated(classes=["a\n", "a\\n"])))) == 2


def test_names_that_several_categories_have_are_told_apart_by_id():
    categories = [{"id": 2, "name": "car"}, {"id": 3, "name": "car"}, {"id": 4, "name": "bus"}]
    assert unique_names(categories) == ["car (2)", "car (3)", "bus"]


@pytest.mark.parametrize("kind", NAMES)
def test_an_evaluation_on_any_device_is_printed(kind, capsys):
    print_evaluation(evaluated(device=NAMES[kind], classes=[NAMES[kind]], parts=[NAMES[kind]]))
    assert "COCO boxes, 3 images" in capsys.readouterr().out


def test_every_measured_part_has_a_column_of_costs():
    shown = printed(cost_table(evaluated(parts=["Transformer", "[head]"], latency=True)))
    assert [name in shown[1] for name in ("model", "Transformer", "[head]")] == [True] * 3
    assert "│ parameters               │   3.00 M │      2.00 M │   2.00 M │" in shown
    assert any("30.00 ms" in line for line in shown)
    assert not any("latency" in line for line in printed(cost_table(evaluated())))


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ({}, {"first.attn": 64, "first.ffn": 256, "second.attn": 64, "second.ffn": 256, "queries": 50}),
        (
            {"first.attn": 24, "second": 0, "second.attn": 8, "queries": 40},
            {"first.attn": 24, "first.ffn": 256, "second": 0, "queries": 40},
        ),
    ],
    ids=["dense", "a layer gone"],
)
def test_layers_that_are_gone_are_told_and_what_is_inside_them_is_not(widths, expected):
    sites = layered_sites()
    assert {row.site: row.kept for row in site_rows(sites, widths)} == expected
    shown = printed(site_table(sites, widths))
    assert sum("gone" in line for line in shown) == sum(kept == 0 for kept in expected.values())
    assert json.loads(json.dumps([row.to_json() for row in site_rows(sites, widths)]))[-1]["share"] in (1.0, 0.8)


def test_layers_without_sites_are_told_even_if_they_stay_and_layers_in_layers_leave_with_them():
    outer = CountSite(name="o", label="o", part="layers", full=1, least=0)
    inner = CountSite(name="i", label="i", part="layers", full=1, least=0, inside="o")
    assert [row.site for row in site_rows([outer, inner], {})] == ["i"]
    assert [(row.site, row.kept) for row in site_rows([outer, inner], {"o": 0})] == [("o", 0)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", NAMES)
def test_sites_and_parts_of_any_name_break_no_table(kind, width):
    site = CountSite(name=NAMES[kind], label="", part="", full=4)
    for table in (site_table([site], {}), comparison_table(summary(parts=[NAMES[kind]]))):
        assert fits(printed(table, width), width)
    if kind in PLAIN:
        assert any(NAMES[kind] in line for line in printed(site_table([site], {}), console=Console()))


def test_no_number_is_cut_on_a_narrow_terminal():
    front = Front.of([trial(50, 0.5517)], BASELINE, Price())
    for table in (comparison_table(summary()), site_table(layered_sites(), {}), front.table(), cost_table(evaluated())):
        assert not any("…" in line for line in printed(table, 40))


@pytest.mark.parametrize(
    ("kind", "label"),
    [("flops", "multiply-adds"), ("params", "parameters"), ("latency", "time for a batch, sites")],
)
def test_the_sites_stand_under_what_was_saved(kind, label):
    rows = compared_rows(summary(kind, latency=True))
    own = next(row for row in rows if row.of == "sites")
    assert (own.dense, own.slim, own.change) == (200e9, 80e9, pytest.approx(-0.6))
    shown = printed(comparison_table(summary(kind)))
    line = next(number for number, each in enumerate(shown) if label in each)
    assert any("-60.0%" in each for each in shown[line : line + 3])


def test_scores_change_by_a_difference_and_costs_by_a_share():
    rows = {(row.quantity, row.of): row for row in compared_rows(summary())}
    assert rows["AP", ""].cells() == ("0.5000", "0.3750", "-0.1250")
    assert rows["AP_small", ""].cells() == ("-", "-", "-")
    assert rows["multiply-adds", "Transformer"].cells() == ("100.00 M", "75.00 M", "-25.0%")
    assert ("latency, median", "") not in rows
    assert len(rows) == 5 + 12
    told = [row.to_json() for row in rows.values()]
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert all(row["change"] is None or math.isfinite(row["change"]) for row in told)


def test_the_table_says_of_which_form_multiply_adds_are():
    assert "deployed form" in " ".join(" ".join(printed(comparison_table(summary()), 120)).split())


def test_an_evaluation_by_kittis_levels_shows_every_class_at_every_level(capsys):
    names = METRICS["kitti"].names
    levels = {"Car": dict.fromkeys(names[1:], 0.75), "Cyclist": dict.fromkeys(names[1:], -1.0)}
    result = replace(
        evaluated(),
        metric="kitti",
        accuracy=dict.fromkeys(names, 0.75),
        per_class={"Car": 0.75, "Cyclist": -1.0},
        class_scores=levels,
    )
    print_evaluation(result)
    shown = [line for line in capsys.readouterr().out.splitlines() if "AP40_hard" in line]
    assert [line.count("0.7500") for line in shown] == [1, 1]
    assert "-" in shown[1]
    compared = compared_rows(replace(summary(), dense=result, slim=result))
    assert [row.quantity for row in compared[-len(names) :]] == list(names)
