import json
import os
import sqlite3
import uuid
import warnings
from dataclasses import replace
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.trial import TrialState

from greedyprune.errors import UserError
from greedyprune.study.reading import list_studies, load_study
from greedyprune.study.study import Study
from greedyprune.study.trial import Baseline, Grown

from .small_study import RANGES, SETTINGS, open_study, refusal, trial_of

BASELINE = Baseline(subset_map=1 / 3, full_map=2 / 3, image_forwards=550, seconds=1e-17)


@pytest.fixture(autouse=True)
def quiet():
    """What the tests ask of Optuna themselves."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def optunas(db, name="default") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{db}")


def test_what_was_added_comes_back_exactly_and_in_order(db):
    # GREEDYPRUNE_TEST_DB may name an empty database of a server, which must do the same.
    url, name = os.environ.get("GREEDYPRUNE_TEST_DB", db), uuid.uuid4().hex
    trials = [trial_of(i) for i in range(12)]
    odd, widths = Grown("encoder.0.ffn", 7, (*range(2016, 2048),), 5e-324, False), trials[7].widths
    widths = widths | {"encoder.0.ffn": 32, "queries": 0}
    trials[7] = replace(trials[7], grown=odd, widths=widths, subset_map=-1.0, full_map=-1.0, target=0.1 + 0.2)
    with open_study(url, name) as study:
        assert (study.trials(), study.baseline(), study.result(), study.facts()) == ([], None, None, {})
        study.set_baseline(BASELINE)
        for trial in trials[:6]:
            study.add(trial)
        assert study.trials() == trials[:6]
    with open_study(url, name) as study:
        assert study.trials() == trials[:6]
        for trial in trials[6:]:
            study.add(trial)
        study.set_fact("damage from dense, encoder.0.attn", [0.1 + 0.2, -5e-324, 1e300])
        study.set_result({"cfgs": [[[8, 32]]], "AP": 0.1 + 0.2})
    with open_study(url, name) as study:
        assert study.trials() == trials
        assert all(list(trial.widths) == list(RANGES) for trial in study.trials())
        assert study.baseline() == BASELINE
        assert study.facts() == {"damage from dense, encoder.0.attn": [0.1 + 0.2, -5e-324, 1e300]}
        assert study.result() == {"cfgs": [[[8, 32]]], "AP": 0.1 + 0.2}
    reading = load_study(str(url), name)
    assert (reading.name, reading.settings, reading.trials) == (name, SETTINGS, trials)
    assert (reading.baseline, reading.result) == (BASELINE, {"cfgs": [[[8, 32]]], "AP": 0.1 + 0.2})


def test_optuna_opens_the_study_and_its_best_value_is_the_highest_ap(db):
    trials = [trial_of(i) for i in range(8)]
    with open_study(db) as study:
        for trial in trials:
            study.add(trial)
    theirs = optunas(db)
    assert theirs.direction == optuna.study.StudyDirection.MAXIMIZE
    assert theirs.best_value == max(t.full_map for t in trials if t.full_map is not None)
    for number, (their, trial) in enumerate(zip(theirs.trials, trials, strict=True)):
        assert (their.number, their.params, their.distributions) == (number, trial.widths, RANGES)
        early = trial.full_map is None
        assert their.state == (TrialState.PRUNED if early else TrialState.COMPLETE)
        assert their.value == (trial.subset_map if early else trial.full_map)
        assert their.intermediate_values == {0: trial.subset_map} | ({} if early else {1: trial.full_map})
        assert their.user_attrs["flops"] == trial.flops
        assert their.duration.total_seconds() == pytest.approx(trial.seconds, abs=1e-5)


def test_the_dashboard_serves_a_study(db):
    dashboard = pytest.importorskip("optuna_dashboard")
    with open_study(db) as study:
        study.add(trial_of(0))
    app = dashboard.wsgi(f"sqlite:///{db}")
    statuses = []
    environ = {"PATH_INFO": "/api/studies/1"}
    setup_testing_defaults(environ)
    body = b"".join(app(environ, lambda status, *_: statuses.append(status)))
    assert statuses == ["200 OK"], body
    assert len(json.loads(body)["trials"]) == 1


def test_other_settings_are_refused_with_every_difference_by_its_path_and_the_earlier_command(db):
    with open_study(db, command="python tools/prune_greedy.py --map_tol 0.02") as study:
        study.add(trial_of(0))
    others = SETTINGS | {"map_tol": 0.1 + 0.2, "mend": {"steps": 5, "hold": 1}, "weights": "cd" * 32, "extra": True}
    del others["seed"]
    line = refusal(open_study, db, settings=others)
    assert line == (
        f"study 'default' in {db} was started with other settings: map_tol was 0.02, now 0.3; "
        "mend.steps was 1100, now 5; seed was 0, now not set; "
        "weights was abababababab..., now cdcdcdcdcdcd...; extra was not set, now true. "
        "Repeat the earlier command (python tools/prune_greedy.py --map_tol 0.02) to go on with it, "
        "or start a new study with --study NAME"
    )
    close = refusal(open_study, db, settings=SETTINGS | {"map_tol": 0.02 + 1e-12, "weights": "ab" * 31 + "cd"})
    assert "map_tol was 0.02, now 0.020000000001;" in close
    assert '...",' not in close
    with open_study(db, "other", settings=others) as study:
        assert study.trials() == []


def test_other_settings_are_told_before_the_sites_of_another_model(db):
    with open_study(db) as study:
        study.add(trial_of(0))
    fewer = {"queries": RANGES["queries"]}
    with pytest.raises(UserError, match="schedule was gp, now modular"):
        Study.open(str(db), "default", SETTINGS | {"schedule": "modular"}, ranges=fewer)
    with pytest.raises(UserError, match=r"trial 0: encoder\.0\.attn is no site of the model that is searched"):
        Study.open(str(db), "default", SETTINGS, ranges=fewer)


def test_a_setting_that_earlier_versions_lacked_has_there_what_it_means_there(db):
    with open_study(db) as study:
        study.add(trial_of(0))
    now, later = SETTINGS | {"metric": "coco"}, {"metric": "coco"}
    with pytest.raises(UserError, match="other settings: metric was coco, now kitti"):
        Study.open(str(db), "default", now | {"metric": "kitti"}, ranges=RANGES, later=later)
    with Study.open(str(db), "default", now, ranges=RANGES, later=later) as study:
        assert len(study.trials()) == 1


def test_settings_are_equal_when_their_json_is(db):
    with open_study(db, settings={"version": 1, "size": (160, 160), "rate": 1}) as study:
        study.add(trial_of(0))
    with open_study(db, settings={"rate": 1.0, "size": [160, 160], "version": 1}) as study:
        assert study.trials() == [trial_of(0)]


def test_settings_of_another_version_are_refused(db):
    with open_study(db) as study:
        study.set_baseline(BASELINE)
    line = refusal(open_study, db, settings=SETTINGS | {"version": 2})
    assert "with settings of version 1, and this one has version 2; start a new study with --study NAME" in line


def test_an_empty_study_protects_nothing(db):
    with open_study(db):
        pass
    with open_study(db, settings=SETTINGS | {"seed": 1}) as study:
        study.set_fact("latency", 1.0)
    assert load_study(str(db)).settings == SETTINGS | {"seed": 1}
    assert "seed was 1, now 0" in refusal(open_study, db)


def test_a_study_of_0_1_0_is_refused(db):
    with open_study(db) as study:
        study.add(trial_of(0))
    theirs = optunas(db)
    theirs.set_user_attr("greedyprune", "0.1.0")
    theirs.set_user_attr("settings", {"schedule": "global"})
    words = "was made by greedyprune 0.1.0, whose studies this version cannot read; start a new study with --study NAME"
    for action in (open_study, load_study):
        assert refusal(action, str(db), "default") == f"study 'default' in {db} {words}"
    assert [summary.name for summary in list_studies(str(db))] == ["default"]


def test_a_study_that_was_only_made_is_taken(db):
    with open_study(db, "first"):
        pass
    storage = f"sqlite:///{db}"
    half = optuna.create_study(study_name="half", storage=storage, direction="maximize")
    assert "study 'half' in" in refusal(load_study, str(db), "half")
    assert "is empty: no search has begun in it" in refusal(load_study, str(db), "half")
    half.set_user_attr("greedyprune", "0.2.0")
    with open_study(db, "half") as study:
        study.add(trial_of(0))
    assert load_study(str(db), "half").settings == SETTINGS


def test_a_study_of_another_program_is_refused(db):
    with open_study(db) as study:
        study.add(trial_of(0))
    theirs = optuna.create_study(study_name="theirs", storage=f"sqlite:///{db}", direction="maximize")
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    optuna.create_study(study_name="least", storage=f"sqlite:///{db}")
    for action in (open_study, load_study):
        assert "study 'theirs'" in refusal(action, str(db), "theirs")
        assert "was made by another program" in refusal(action, str(db), "theirs")
    assert "was made by another program" in refusal(open_study, str(db), "least")
    optunas(db).add_trial(theirs.trials[0])
    assert "trial 1: phase is missing; another program wrote it" in refusal(open_study, db)


def test_trials_that_others_asked_for_and_that_have_no_result_are_ignored(db):
    with open_study(db) as study:
        study.add(trial_of(0))
        optunas(db).ask()  # RUNNING
        optunas(db).enqueue_trial({"queries": 10})  # WAITING
        study.add(trial_of(1))
        assert study.trials() == [trial_of(0), trial_of(1)]
    optunas(db).tell(1, state=TrialState.FAIL)
    assert load_study(str(db)).trials == [trial_of(0), trial_of(1)]
    with open_study(db) as study:
        study.add(trial_of(2))
        assert study.trials() == [trial_of(0), trial_of(1), trial_of(2)]


def test_studies_in_one_database_are_listed_and_read_without_a_lock(db):
    trials = [trial_of(i) for i in range(4)]
    with open_study(db, "first") as first, open_study(db, "second", settings={"version": 1}) as second:
        for trial in trials:
            first.add(trial)
        first.set_result({"AP": 0.5})
        second.add(replace(trials[0], full_map=None))
        best = max(t.full_map for t in trials if t.full_map is not None)
        assert list_studies(str(db)) == [("first", 4, True, best), ("second", 1, False, None)]
        reading = load_study(str(db), "first")
        assert (reading.settings, reading.trials, reading.result) == (SETTINGS, trials, {"AP": 0.5})
        assert load_study(f"sqlite:///{db}", "second").settings == {"version": 1}
        assert load_study(f"sqlite:///{db}", "second").result is None
    line = refusal(load_study, str(db))
    assert line == f"database {db} holds 2 studies; choose with --study: first (4 trials, done), second (1 trials)"
    line = refusal(load_study, str(db), "third")
    assert line == f"study 'third' is not in {db}; it holds: first (4 trials, done), second (1 trials)"


def test_the_only_study_needs_no_name(db):
    with open_study(db, "mine"):
        pass
    reading = load_study(str(db))
    assert (reading.name, reading.settings, reading.trials, reading.result) == ("mine", SETTINGS, [], None)


def test_reading_makes_no_database_and_changes_none(db, tmp_path):
    assert "there is no database" in refusal(load_study, str(db))
    assert not db.parent.exists()
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE birds (name TEXT)")
    before = other.read_bytes()
    assert "holds no search" in refusal(list_studies, str(other))
    assert other.read_bytes() == before
    with open_study(db) as study:
        study.add(trial_of(0))
    before = db.read_bytes()
    assert len(load_study(str(db)).trials) == len(list_studies(str(db))) == 1
    assert db.read_bytes() == before


def test_nothing_is_printed_no_warning_is_given_and_optunas_logging_is_left_as_it_was(db, capfd):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_study(db) as study:
            study.add(trial_of(0))
        load_study(str(db))
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


@pytest.mark.parametrize(
    "change",
    [
        {"widths": {"encoder.0.attn": 8}},
        {"widths": trial_of(0).widths | {"queries": 15}},
        {"predicted": float("nan")},
        {"phase": 3},
        {"grown": Grown("nowhere", 0, (), None, True)},
        {"grown": Grown("queries", 0, (2, 1), None, True)},
    ],
)
def test_a_trial_that_could_not_be_read_again_is_a_mistake_of_the_caller(db, change):
    with open_study(db) as study:
        with pytest.raises(ValueError, match=r"sites|contained|predicted|phase|grown"):
            study.add(replace(trial_of(0), **change))
        assert study.trials() == []
    assert load_study(str(db)).trials == []


def test_what_a_caller_does_with_facts_changes_no_study(db):
    with open_study(db) as study:
        value = [1.0, [2.0]]
        study.set_fact("x", value)
        value.append(3)
        study.facts()["x"][1].append(4)
        study.set_fact("y", 1)
        assert study.facts() == {"x": [1.0, [2.0]], "y": 1}


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "\x1b[31m", "a\0"])
def test_a_study_needs_a_name_that_can_be_shown(db, name):
    for action in (open_study, load_study):
        line = refusal(action, str(db), name)
        assert "1 to 200 characters" in line or "can be shown" in line
    assert not db.exists()
