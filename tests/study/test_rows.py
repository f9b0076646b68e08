"""Rows of a study that were edited by hand, or written by something else: one line, and nothing is changed."""

import re
import shutil
import sqlite3

import pytest

from greedyprune.study.reading import list_studies, load_study
from greedyprune.study.trial import Baseline

from .small_study import open_study, refusal, trial_of

TRIAL = "(SELECT trial_id FROM trials WHERE number = 1)"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A study with a baseline, a fact and three trials, the middle one of a site that grows."""
    db = tmp_path_factory.mktemp("template") / "prune.db"
    numbers = [0, next(n for n in range(1, 99) if trial_of(n).grown and trial_of(n).full_map), 2]
    with open_study(db) as study:
        study.set_baseline(Baseline(0.5, 0.6, 10, 1.0))
        study.set_fact("slim", {"trial": 1})
        for number in numbers:
            study.add(trial_of(number))
    return db


def set_attribute(key: str, text: str) -> str:
    return f"UPDATE trial_user_attributes SET value_json = '{text}' WHERE key = '{key}' AND trial_id = {TRIAL}"


def set_map(value: str) -> str:
    return f"UPDATE trial_intermediate_values SET intermediate_value = {value} WHERE step = 0 AND trial_id = {TRIAL}"


def set_width(value: str) -> str:
    return f"UPDATE trial_params SET param_value = {value} WHERE param_name = 'encoder.0.attn' AND trial_id = {TRIAL}"


def set_study(key: str, text: str) -> str:
    return f"UPDATE study_user_attributes SET value_json = '{text}' WHERE key = '{key}'"


def grown(**values: str) -> str:
    whole = {"site": '"queries"', "round": "1", "kept": "[1, 2]", "loss": "null", "done": "true"} | values
    return set_attribute("grown", "{" + ", ".join(f'"{key}": {value}' for key, value in whole.items()) + "}")


def content(db) -> list[str]:
    connection = sqlite3.connect(db)
    rows = list(connection.iterdump())
    connection.close()
    return rows


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (set_attribute("target", "{"), "trial 1: one of its values is '{', which is not JSON"),
        (set_attribute("target", "[" * 100_000), r"trial 1: one of its values is not what Optuna writes \(Recursion"),
        (set_attribute("target", '"0.5"'), "trial 1: target is '0.5', it must be a number of at least -1"),
        (set_attribute("target", "NaN"), "trial 1: target is NaN, it must be"),
        (set_attribute("target", "1e999"), "trial 1: target is Infinity, it must be"),
        (set_attribute("target", "true"), "trial 1: target is true, it must be"),
        (set_attribute("target", "null"), "trial 1: target is null, it must be"),
        (set_attribute("seconds", "-1"), "trial 1: seconds is -1, it must be a number of at least 0"),
        (set_attribute("flops", "1.5"), "trial 1: flops is 1.5, it must be a whole number"),
        (set_attribute("params", "9" * 5000), "trial 1: one of its values is not what Optuna writes"),
        (set_attribute("image_forwards", "[]"), r"trial 1: image_forwards is \[\], it must be"),
        (set_attribute("holds", "1"), "trial 1: holds is 1, it must be true or false"),
        (set_attribute("phase", "7"), "trial 1: phase is 7, it must be text"),
        (set_attribute("grown", "[1]"), r"trial 1: grown is \[1\], not an object with fields"),
        (set_attribute("grown", '{"site": "queries"}'), "trial 1: grown round is missing; another program wrote it"),
        (grown(round="-1"), "trial 1: grown round is -1, it must be a whole number"),
        (grown(kept="[2, 1]"), r"trial 1: grown kept is \[2, 1\]: its channels must ascend"),
        (grown(kept="[1.5]"), r"trial 1: grown kept is \[1.5\], not a list of channels"),
        (grown(loss='"low"'), "trial 1: grown loss is 'low', it must be a number"),
        (grown(site='"x"'), "trial 1: grown site is 'x', and there is no such site"),
        (f"DELETE FROM trial_user_attributes WHERE key = 'seconds' AND trial_id = {TRIAL}", "seconds is missing"),
        (f"DELETE FROM trial_user_attributes WHERE trial_id = {TRIAL}", "trial 1: .* is missing; another program"),
        (set_map("NULL"), "trial 1: one of its values is not what Optuna writes"),
        (set_map("'high'"), "trial 1: subset_map is 'high', it must be|trial 1: one of its values is not"),
        (set_map("7"), "trial 1: subset_map is 7.0, it must be a number of at least -1 and at most 1"),
        (set_width("3000"), "trial 1: encoder.0.attn has width 3000, it must be 8 to 256 in steps of 8"),
        (set_width("12"), "trial 1: encoder.0.attn has width 12, it must be 8 to 256 in steps of 8"),
        (set_width("-8"), "trial 1: widths of encoder.0.attn is -8, it must be a whole number of at least 0"),
        (set_width("NULL"), "trial 1: one of its values is not what Optuna writes"),
        (f"DELETE FROM trial_params WHERE param_name = 'encoder.0.attn' AND trial_id = {TRIAL}", "has no width"),
        (
            f"UPDATE trial_params SET param_name = 'x' WHERE param_name = 'encoder.0.attn' AND trial_id = {TRIAL}",
            "encoder.0.attn has no width",
        ),
        (f"UPDATE trial_values SET value = 0.9 WHERE trial_id = {TRIAL}", r"trial 1: value is \[0.9\], which is not"),
        ("UPDATE trials SET state = 'RUNNING' WHERE number = 1", "trial 1: state is RUNNING; another program"),
        ("UPDATE trials SET state = 'PRUNED' WHERE number = 1", "trial 1: state is PRUNED, and its AP on all images"),
        ("UPDATE trials SET state = 'nonsense' WHERE number = 1", "trial 1: one of its values is not what .*nonsense"),
        (f"DELETE FROM trials WHERE trial_id = {TRIAL}", "trial 1: number is 2, and 1 comes next"),
        ("UPDATE trials SET number = NULL WHERE number = 1", "cannot be read: it is not what Optuna writes"),
        (set_study("settings", "{"), "an attribute is '{', which is not JSON"),
        (set_study("settings", "3"), "settings is 3, not an object with fields"),
        (set_study("run", "[]"), r"run is \[\], not an object with fields"),
        (set_study("baseline", "[]"), r"baseline is \[\], not an object with fields"),
        (set_study("baseline", '{"subset_map": 2}'), "baseline subset_map is 2, it must be"),
        ("UPDATE study_user_attributes SET key = NULL WHERE key = 'fact: slim'", "name of an attribute is null"),
        (
            "UPDATE study_user_attributes SET value_json = NULL WHERE key = 'fact: slim'",
            "an attribute is not what Optu",
        ),
    ],
)
def test_a_row_that_no_search_writes_is_told_by_study_trial_and_field(db, template, statement, words):
    db.parent.mkdir(parents=True)
    shutil.copy(template, db)
    connection = sqlite3.connect(db)
    with connection:
        assert connection.execute(statement).rowcount
    connection.close()
    before = content(db)
    line = refusal(open_study, db)
    assert line.startswith(f"study 'default' in {db}: ")
    assert re.search(words, line), line
    assert line.endswith("; restore the database from a copy, or start a new study with --study NAME")
    assert len(line) < 500
    if not re.search("in steps of|no width", words):  # what only who knows the model's sites can tell
        assert refusal(load_study, str(db), "default") == line
    assert content(db) == before
    assert sorted(path.name for path in db.parent.iterdir()) == ["prune.db"]


def test_a_list_of_studies_tells_what_cannot_be_read(db, template):
    db.parent.mkdir(parents=True)
    shutil.copy(template, db)
    with open_study(db, "other"):
        pass
    connection = sqlite3.connect(db)
    with connection:
        connection.execute(set_attribute("target", "{"))
    assert "study 'default' in " in refusal(list_studies, str(db))
    assert "trial 1: one of its values is '{', which is not JSON" in refusal(list_studies, str(db))
    with connection:
        connection.execute(set_study("baseline", "{"))
    connection.close()
    assert "an attribute of one of its studies is '{', which is not JSON" in refusal(list_studies, str(db))
    assert load_study(str(db), "other").trials == []
    with open_study(db, "other") as study:  # what another study holds is no matter
        study.add(trial_of(0))
