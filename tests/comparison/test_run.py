"""Comparisons of a small detector: what is measured, that it goes on after an interrupt, and what is reported."""

import csv
import io
from dataclasses import replace
from html.parser import HTMLParser

import optuna
import pytest
import torch

from greedyprune import SearchOptions, UserError, api
from greedyprune.classical.weights import nonzero
from greedyprune.comparison import run as running
from greedyprune.comparison.arms import parse_arms
from greedyprune.comparison.options import AUGMENT, ComparisonOptions
from greedyprune.comparison.page import page
from greedyprune.comparison.record import Record
from greedyprune.comparison.row import DENSE, Row
from greedyprune.comparison.run import Comparison, Data
from greedyprune.comparison.table import comma_separated, markdown, terminal_table
from greedyprune.data.coco import CocoDetection
from greedyprune.data.transforms import form_transform
from greedyprune.families import family_of
from greedyprune.study.settings import differences

from ..evaluation.tiny_coco import CATEGORIES
from ..training.tiny_training import small_model, write_data

OPTIONS = ComparisonOptions(retrain_epochs=1, retrain_batch_size=4, calib_images=3, batch_size=4, latency_runs=1)
ARMS = parse_arms("filter_l1:0.5,weight:0.5,layers:1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, model = write_data(tmp_path_factory.mktemp("data")), small_model()
    form = family_of(model).form(model)
    plain, augmented = form_transform(form), form_transform(form, AUGMENT)
    opened = [
        CocoDetection(folder, *each)
        for each in (
            ("train", tuple(CATEGORIES), plain),
            ("train", tuple(CATEGORIES), augmented),
            ("val", tuple(CATEGORIES), plain),
        )
    ]
    return Data(*opened)


def compared(folder, data, arms=ARMS, options=OPTIONS, study="comparison"):
    comparison = Comparison(small_model().eval(), data, options, folder)
    with Record.open(str(folder / "study.db"), study, comparison.settings) as record:
        return comparison, comparison.run(arms, record)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *compared(folder, data)


def without_times(rows):
    return [replace(row, latency={}) for row in rows]


def test_every_arm_is_measured_before_and_after_retraining(whole):
    folder, _, rows = whole
    assert [row.name for row in rows] == [DENSE, "filter_l1:0.5", "weight:0.5", "layers:1"]
    dense, filters, weights, layers = rows
    assert dense.retrained is None
    assert all(row.retrained for row in rows[1:])
    assert filters.final.cost.flops < dense.final.cost.flops
    assert layers.final.cost.flops < dense.final.cost.flops
    assert weights.final.cost.flops == dense.final.cost.flops
    assert weights.nonzero < 0.8 * dense.nonzero
    assert weights.sizes.file < dense.sizes.file
    assert weights.sizes.dense >= dense.sizes.dense * 0.99
    assert set(dense.latency) == {"cpu, batch 1", "cpu, batch 8"}
    for row in rows:
        model = api.load(folder / row.name.replace(":", "-") / "model.safetensors")
        assert nonzero(model) == row.nonzero
        assert sum(p.numel() for p in model.parameters()) == row.final.cost.params


def test_zeros_stay_while_retraining_and_the_rest_moves(whole):
    folder = whole[0] / "weight-0.5"
    pruned, final = (api.load(folder / name).state_dict() for name in ("pruned.safetensors", "model.safetensors"))
    held = [name for name, tensor in pruned.items() if tensor.dim() > 1 and (tensor == 0).float().mean() > 0.2]
    assert held
    for name in held:
        assert torch.equal(pruned[name] == 0, final[name] == 0)
    assert any(not torch.equal(pruned[name], final[name]) for name in held)


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on_with_the_same_numbers(whole, tmp_path, data, monkeypatch):
    train = running.retrained
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    monkeypatch.setattr(running, "retrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compared(tmp_path, data)
    evaluated = []
    evaluate = running.evaluate
    monkeypatch.setattr(running, "evaluate", lambda *a, **k: evaluated.append(a) or evaluate(*a, **k))
    _, rows = compared(tmp_path, data)
    assert without_times(rows) == without_times(whole[2])
    assert len(evaluated) == 3  # the second arm after retraining, and the third before and after


def test_a_study_takes_more_methods_and_no_other_settings(whole, data):
    folder, _, rows = whole
    _, more = compared(folder, data, [*ARMS, *parse_arms("weight:0.2")])
    assert without_times(more[: len(rows)]) == without_times(rows)
    assert more[-1].name == "weight:0.2"
    with pytest.raises(UserError, match=r"other settings: options.retrain_lr was 0.0001, now 0.001"):
        compared(folder, data, options=replace(OPTIONS, retrain_lr=1e-3))
    study = optuna.load_study(study_name="comparison", storage=f"sqlite:///{folder / 'study.db'}")
    assert [trial.params for trial in study.trials] == [
        {},
        {"filter_l1": 0.5},
        {"weight": 0.5},
        {"layers": 1},
        {"weight": 0.2},
    ]


def test_a_study_of_another_kind_is_refused(tmp_path, data):
    optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="comparison").set_user_attr("a", 1)
    with pytest.raises(UserError, match="is no comparison of this version; give another --study or --db"):
        compared(tmp_path, data)


def test_a_method_that_the_detector_has_nothing_for_is_refused_before_anything_is_measured(tmp_path, data):
    with pytest.raises(UserError, match="layers"):
        compared(tmp_path, data, parse_arms("weight:0.5,layers:9"))
    assert not (tmp_path / "dense").exists()


def test_rows_are_read_as_they_were_written(whole):
    for row in whole[2]:
        assert without_times([Row.from_json(row.to_json(), "a row")]) == without_times([row])
    broken = whole[2][0].to_json() | {"nonzero": -1}
    with pytest.raises(UserError, match="a row: 'nonzero' is -1"):
        Row.from_json(broken, "a row")


class Balanced(HTMLParser):
    """Every element that begins ends, and nothing is fetched."""

    EMPTY = frozenset({"meta", "img", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.count = [], {}

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in self.EMPTY:
            self.open.append(tag)
        for name, value in attrs:
            assert name not in ("src", "href", "xlink:href") or value.startswith(("data:", "#")), (name, value[:40])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_no_network(whole):
    _, comparison, rows = whole
    content = page(rows, "A <study>", "about & so on", comparison.data.val, comparison.pictured, comparison.found)
    parser = Balanced()
    parser.feed(content)
    assert not parser.open
    assert "A &lt;study&gt;" in content
    assert parser.count["svg"] == 5
    assert parser.count["img"] == 2 * 3 * len(comparison.pictured)
    assert parser.count["tr"] == 2 * (1 + len(rows))


def test_tables_say_the_same_numbers(whole):
    rows = whole[2]
    read = list(csv.DictReader(io.StringIO(comma_separated(rows))))
    assert [each["name"] for each in read] == [row.name for row in rows]
    assert float(read[2]["pruned_AP"]) == rows[2].pruned.accuracy["AP"]
    assert read[0]["retrained_AP"] == ""
    assert int(read[2]["file_bytes"]) == rows[2].sizes.file
    lines = markdown(rows).splitlines()
    assert len({line.count("|") for line in lines[: 2 + len(rows)]}) == 1
    assert len(terminal_table(rows).columns) == 7


def test_options_are_checked():
    with pytest.raises(UserError, match="--metric 'x' is unknown; choose one of coco"):
        ComparisonOptions(metric="x")
    with pytest.raises(UserError, match="--calib_images is 0"):
        ComparisonOptions(calib_images=0)
    assert not differences(ComparisonOptions().settings(), ComparisonOptions().settings())
    assert SearchOptions().metric == ComparisonOptions().metric
