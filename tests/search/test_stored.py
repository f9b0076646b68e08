"""Rows of a study that were edited by hand, or written by something else: one line, and nothing is changed."""

import json
import math
import re
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from greedyprune.search.record import Baseline, Growth
from greedyprune.search.study import load_result

from .small_study import SETTINGS, open_study, record_of, refusal

TRIAL = "(SELECT trial_id FROM trials WHERE number = 1)"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A database with a study of thirty trials, made once."""
    path = tmp_path_factory.mktemp("sound") / "prune.db"
    with open_study(path) as study:
        study.set_baseline(Baseline(0.5, 0.6, 10, 1.0))
        study.set_fact("slim", {"trial": 1})
        for number in range(30):
            study.add(record_of(number))
    return path


@pytest.fixture
def edited(sound, db):
    """Runs SQL on a copy of that database."""

    def edit(statement: str) -> Path:
        db.parent.mkdir(parents=True)
        shutil.copy(sound, db)
        connection = sqlite3.connect(db)
        with connection:
            assert connection.execute(statement).rowcount
        connection.close()
        return db

    return edit


def set_attribute(key: str, text: str) -> str:
    return f"UPDATE trial_user_attributes SET value_json = '{text}' WHERE key = '{key}' AND trial_id = {TRIAL}"


def set_map(value: str) -> str:
    return f"UPDATE trial_intermediate_values SET intermediate_value = {value} WHERE step = 0 AND trial_id = {TRIAL}"


def set_width(value: str) -> str:
    return f"UPDATE trial_params SET param_value = {value} WHERE param_name = 'encoder.0.attn' AND trial_id = {TRIAL}"


def content(db: Path) -> list[str]:
    connection = sqlite3.connect(db)
    rows = list(connection.iterdump())
    connection.close()
    return rows


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (set_attribute("target", "{"), "trial 1: target is '{', which is not JSON"),
        (set_attribute("target", "[" * 100_000), "trial 1: target is .*, which is not JSON"),
        (set_attribute("target", '"0.5"'), "trial 1: target is '0.5', it must be a number of at least -1"),
        (set_attribute("target", "NaN"), "trial 1: target is NaN, it must be"),
        (set_attribute("target", "1e999"), "trial 1: target is Infinity, it must be"),
        (set_attribute("target", "true"), "trial 1: target is true, it must be"),
        (set_attribute("target", "null"), "trial 1: target is null, it must be"),
        (set_attribute("seconds", "-1"), "trial 1: seconds is -1, it must be a number of at least 0"),
        (set_attribute("multiply_adds", "1.5"), "trial 1: flops is 1.5, it must be a whole number"),
        (set_attribute("parameters", "9" * 5000), "trial 1: parameters is .*, which is not JSON"),
        (set_attribute("image_forwards", "[]"), r"trial 1: image_forwards is \[\], it must be"),
        (f"DELETE FROM trial_user_attributes WHERE key = 'seconds' AND trial_id = {TRIAL}", "seconds is missing"),
        (f"DELETE FROM trial_user_attributes WHERE trial_id = {TRIAL}", "trial 1: .* is missing; another program"),
        (set_map("NULL"), "trial 1: subset_map is null, it must be"),
        (set_map("'high'"), "trial 1: subset_map is 'high', it must be"),
        (set_map("7"), "trial 1: subset_map is 7.0, it must be a number of at least -1 and at most 1"),
        (set_map("x'00'"), "trial 1: subset_map is .*, it must be"),
        (set_width("3000"), "trial 1: encoder.0.attn has width 3000, it must be a multiple of 8 up to 256"),
        (set_width("12"), "trial 1: encoder.0.attn has width 12, it must be a multiple of 8"),
        (set_width("0"), "trial 1: encoder.0.attn has width 0.0, it must be a whole number of at least 1"),
        (set_width("NULL"), "trial 1: encoder.0.attn has width null"),
        (set_width("1e300"), "trial 1: encoder.0.attn has width"),
        (f"DELETE FROM trial_params WHERE param_name = 'encoder.0.attn' AND trial_id = {TRIAL}", "has no width"),
        (
            f"UPDATE trial_params SET param_name = 'x' WHERE param_name = 'encoder.0.attn' AND trial_id = {TRIAL}",
            "encoder.0.attn has no width",
        ),
        (f"UPDATE trial_values SET value = 0.9 WHERE trial_id = {TRIAL}", "trial 1: value is 0.9, which is not its AP"),
        ("UPDATE trials SET state = 'RUNNING' WHERE number = 1", "trial 1: state is 'RUNNING'; another program"),
        ("UPDATE trials SET state = 'nonsense' WHERE number = 1", "trial 1: state is 'nonsense'"),
        (f"DELETE FROM trials WHERE trial_id = {TRIAL}", "trial 1: number is 2, and 1 comes next"),
        ("UPDATE trials SET number = NULL WHERE number = 1", "trial 0: number is null, and 0 comes next"),
        ("UPDATE trials SET number = 'x' WHERE number = 1", "trial 1: number is 2, and 1 comes next"),
        ("UPDATE study_user_attributes SET value_json = '{' WHERE key = 'settings'", "settings is '{', which is not"),
        ("UPDATE study_user_attributes SET value_json = '3' WHERE key = 'settings'", "settings is not an object"),
        ("DELETE FROM study_user_attributes WHERE key = 'settings'", "settings is not an object"),
        (
            "UPDATE study_user_attributes SET value_json = '[]' WHERE key = 'baseline'",
            r"baseline is \[\], not an object",
        ),
        (
            """UPDATE study_user_attributes SET value_json = '{"subset_map": 2}' WHERE key = 'baseline'""",
            "baseline subset_map is 2, it must be",
        ),
        ("UPDATE study_user_attributes SET key = NULL WHERE key = 'fact: slim'", "name of an attribute is no text"),
        ("UPDATE study_user_attributes SET value_json = NULL WHERE key = 'fact: slim'", "fact: slim is null, which is"),
    ],
)
def test_a_row_that_no_search_writes_is_told_by_study_trial_and_field(edited, statement, words):
    db = edited(statement)
    before = content(db)
    line = refusal(open_study, db)
    assert line.startswith(f"study 'default' in {db}: ")
    assert re.search(words, line), line
    assert line.endswith("; restore the database from a copy, or start a new study with --study NAME")
    assert len(line) < 500
    assert content(db) == before
    assert sorted(path.name for path in db.parent.iterdir()) == ["prune.db"]


@pytest.mark.parametrize("kept", ["[3, 1, 2]", "[1, 1]", "[-1]", '["1"]', "[1.5]", "7", "[]", "[true]"])
def test_a_kept_set_that_is_none_is_told(edited, kept):
    number = next(number for number in range(30) if isinstance(record_of(number).origin, Growth))
    db = edited(f"UPDATE trial_user_attributes SET value_json = '{kept}' WHERE key = 'kept'")
    assert f"trial {number}: kept " in refusal(load_result, str(db))


@pytest.mark.parametrize("phase", ["later", 3, None])
def test_a_phase_that_is_not_known_is_told(edited, phase):
    number = next(number for number in range(30) if not isinstance(record_of(number).origin, Growth))
    db = edited(f"UPDATE trial_user_attributes SET value_json = '{json.dumps(phase)}' WHERE key = 'phase'")
    assert f"trial {number}: phase is " in refusal(load_result, str(db))


def test_what_could_not_be_read_is_not_written(db):
    with open_study(db) as study:
        study.add(record_of(0))
        assert "subset_map of trial 1 is nan" in refusal(study.add, replace(record_of(1), subset_map=math.nan))
    assert load_result(str(db))[1] == [record_of(0)]


def test_an_empty_study_takes_other_settings_and_one_that_knows_something_does_not(db):
    with open_study(db):
        pass
    for seed in (1, 2):
        with open_study(db, settings=SETTINGS | {"seed": seed}) as study:
            assert study.records() == []
    with open_study(db, settings=SETTINGS | {"seed": 3}) as study:
        study.set_baseline(Baseline(0.5, 0.6, 10, 1.0))
    assert "seed was 3, now 4" in refusal(open_study, db, settings=SETTINGS | {"seed": 4})


@pytest.mark.parametrize("name", ["", "x" * 10_000, "a\0b", "a\nb", "lone \udcff", "\u200b"])
def test_a_name_that_cannot_be_shown_is_refused(db, name):
    for action in (open_study, load_result):
        line = refusal(action, str(db), name)
        assert line.startswith("--study ")
        assert len(line) < 200
    assert not db.exists()
