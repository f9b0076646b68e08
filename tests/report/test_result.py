"""What a search ends with is written and read again, and a file that is no such thing is refused."""

import json
from dataclasses import replace

import pytest

from greedyprune import UserError
from greedyprune.evaluation.result import EvalResult
from greedyprune.report.result import SitesCost, Spent, Summary, read_summary

from ..helpers.made_up import BASELINE, NAMES, Price, evaluated, trial

CFGS = [[[24, 256], [0, 0]], [[64, 64, 128]], {"queries": 40}]


def summary():
    return Summary(
        cfgs=CFGS,
        widths={"site": 40},
        trial=1,
        schedule="global",
        scorer="basis",
        spent=Spent.of(BASELINE, [trial(50, 0.55), trial(40, None)]),
        sites=SitesCost.of(Price(), {"site": 40}),
        dense=evaluated(1.0, classes=NAMES.values(), latency=True),
        slim=evaluated(0.5, classes=NAMES.values(), latency=True),
    )


def test_what_is_written_is_read_again(tmp_path):
    summary().write(tmp_path / "new")
    assert read_summary(tmp_path / "new" / "result.json") == summary()
    assert json.loads((tmp_path / "new" / "cfgs.json").read_text()) == CFGS


@pytest.mark.parametrize("trial_number", [None, 0])
def test_a_search_may_end_with_the_dense_model(trial_number):
    found = replace(summary(), trial=trial_number)
    assert Summary.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)), "here") == found


def test_what_a_search_took_is_that_of_the_dense_model_and_of_all_trials():
    assert summary().spent == Spent(5.0, 210)


@pytest.mark.parametrize("latency", [False, True])
@pytest.mark.parametrize("parts", [(), ("Transformer",), ("Transformer", "Feature pyramid")])
def test_an_evaluation_is_read_again_with_the_costs_of_every_part(parts, latency):
    result = replace(evaluated(0.5, parts=parts, latency=latency), image_seed=3)
    told = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert EvalResult.from_json(told, "here") == result
    assert ("transformer_flops" in told) == ("Transformer" in parts)
    assert (told["latency_ms"] is None) == (not latency)


def spoilt(path):
    """Every way in which an entry can be wrong."""
    for value in ("missing", None, "text", [], {}, -2, True, 1e300, 0.5):
        told = summary().to_json()
        at = told
        for name in path[:-1]:
            at = at[name]
        if value == "missing":
            del at[path[-1]]
        elif value == at[path[-1]]:
            continue
        else:
            at[path[-1]] = value
        yield value, told


ENTRIES = {
    "cfgs": (),
    "widths": (),
    "trial": (None,),
    "schedule": (),
    "scorer": (),
    "seconds": (1e300, 0.5),
    "image_forwards": (),
    "sites": (),
    "dense": (),
}
OF_DENSE = {
    "AP": (0.5,),
    "AR_small": (0.5,),
    "per_class": (),
    "params": (),
    "transformer_flops": (),
    "parts": (),
    "device": (),
    "dtype": (),
    "threads": (),
    "images": (),
    "image_seed": (None,),
    "image_size": (),
    "latency_ms": (None,),
}
PATHS = {(name,): fine for name, fine in ENTRIES.items()} | {("dense", name): fine for name, fine in OF_DENSE.items()}
TEXTS = {"schedule", "scorer", "device", "dtype"}
EMPTY_IS_FINE = {"cfgs": [[], {}], "widths": [{}], "per_class": [{}]}


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_an_entry_that_is_missing_or_wrong_is_named(path):
    for value, told in spoilt(path):
        fine = value in PATHS[path] and value is not True
        fine = fine or (value == "text" and path[-1] in TEXTS) or value in EMPTY_IS_FINE.get(path[-1], [])
        if fine and value != "missing":
            Summary.from_json(told, "result.json")
            continue
        with pytest.raises(UserError, match=r"^result\.json"):
            Summary.from_json(told, "result.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_holds_something_else_is_one_line(content, tmp_path):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(UserError) as told:
        read_summary(tmp_path / "result.json")
    assert str(tmp_path) in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_summary(tmp_path / "result.json")
