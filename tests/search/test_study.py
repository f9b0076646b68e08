import json
import os
import random
import signal
import sqlite3
import time
import uuid
import warnings
from dataclasses import asdict, replace
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from greedyprune.search.record import Baseline, Growth
from greedyprune.search.study import list_studies, load_result

from .small_study import SETTINGS, SITES, open_study, record_of, refusal


def test_what_was_added_comes_back_exactly_and_in_order(db):
    # GREEDYPRUNE_TEST_DB may name an empty database of a server, which must do the same.
    url, name = os.environ.get("GREEDYPRUNE_TEST_DB", db), uuid.uuid4().hex
    records = [record_of(i) for i in range(40)]
    odd, widths = Growth("encoder.0.ffn", 7, (*range(2016, 2048),), 5e-324, False), records[7].widths
    widths = widths | {"encoder.0.ffn": 32}
    records[7] = replace(records[7], origin=odd, widths=widths, subset_map=-1.0, full_map=-1.0, target=0.1 + 0.2)
    baseline = Baseline(subset_map=1 / 3, full_map=2 / 3, image_forwards=550, seconds=1e-17)
    with open_study(url, name) as study:
        assert (study.records(), study.baseline(), study.result()) == ([], None, None)
        study.set_baseline(baseline)
        for record in records[:20]:
            study.add(record)
        assert study.records() == records[:20]
    with open_study(url, name) as study:
        assert study.records() == records[:20]
        for record in records[20:]:
            study.add(record)
        assert study.records() == records
        assert list(study.records()[0].widths) == list(SITES)
        study.set_result({"cfgs": [[[8, 32]]], "AP": 0.1 + 0.2})
    with open_study(url, name) as study:
        assert study.baseline() == baseline
        assert study.result() == {"cfgs": [[[8, 32]]], "AP": 0.1 + 0.2}


def test_optuna_sees_the_trials_that_its_own_add_trial_would_have_written(db):
    records = [record_of(i) for i in range(15)]
    with open_study(db) as study:
        for record in records:
            study.add(record)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ours = optuna.load_study(study_name="default", storage=f"sqlite:///{db}")
    theirs = optuna.create_study(study_name="theirs", storage=f"sqlite:///{db}", direction="maximize")
    ranges = {n: IntDistribution(32, 2048, step=32) if w == 2048 else IntDistribution(8, 256, step=8)
              for n, (w, _) in SITES.items()}  # fmt: skip
    for record in records:
        maps = {0: record.subset_map} if record.full_map is None else {0: record.subset_map, 1: record.full_map}
        attributes = {
            **json.loads(json.dumps(asdict(record.origin))),
            "target": record.target,
            "multiply_adds": record.flops,
            "parameters": record.params,
            "image_forwards": record.image_forwards,
            "seconds": record.seconds,
        }
        theirs.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED if record.full_map is None else TrialState.COMPLETE,
                value=record.subset_map if record.full_map is None else record.full_map,
                params=record.widths,
                distributions=ranges,
                intermediate_values=maps,
                user_attrs=attributes,
            )
        )
    assert ours.direction == theirs.direction
    assert ours.best_value == max(r.full_map for r in records if r.full_map is not None)
    for trial, expected, record in zip(ours.trials, theirs.trials, records, strict=True):
        for part in ("number", "state", "value", "params", "distributions", "intermediate_values", "user_attrs"):
            assert getattr(trial, part) == getattr(expected, part)
        assert trial.duration.total_seconds() == pytest.approx(record.seconds, abs=1e-5)
        assert abs((trial.datetime_complete - expected.datetime_complete).total_seconds()) < 600
    ours.add_trial(theirs.trials[0])
    assert ours.trials[-1].number == len(records)


def test_the_dashboard_serves_a_study(db):
    dashboard = pytest.importorskip("optuna_dashboard")
    with open_study(db) as study:
        for number in range(5):
            study.add(record_of(number))
    app = dashboard.wsgi(f"sqlite:///{db}")
    statuses = []
    environ = {"PATH_INFO": "/api/studies/1"}
    setup_testing_defaults(environ)
    body = b"".join(app(environ, lambda status, *_: statuses.append(status)))
    assert statuses == ["200 OK"], body
    assert len(json.loads(body)["trials"]) == 5


def add_until_killed(db, pipe) -> None:
    """A forked child's life: open the study, then add record after record and tell of each."""
    try:
        study = open_study(db)
        for number in range(len(study.records()), 10**6):
            study.add(record_of(number))
            os.write(pipe, b".")
    except BaseException as error:
        os.write(pipe, f"FAILED: {error!r}".encode())
    finally:
        os._exit(1)


def test_a_kill_at_any_moment_leaves_whole_trials_and_a_database_that_opens(db):
    rng, saved = random.Random(0), 0
    for kill in range(20):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            add_until_killed(db, writer)
        os.close(writer)
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            # The first ones die while they make or open the database, the others in some part of a transaction.
            told = b"" if kill < 8 else pipe.read(1) + pipe.read(1)
            time.sleep(rng.uniform(0, 0.2 if kill < 8 else 0.01))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            while part := pipe.read(1000):
                told += part
        assert set(told) <= set(b"."), told
        with open_study(db) as study:
            records = study.records()
        assert saved + len(told) <= len(records) <= saved + len(told) + 1
        assert records == [record_of(i) for i in range(len(records))]
        saved = len(records)
    assert saved >= 24
    with sqlite3.connect(db) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for rows in ("trial_values", "trial_params", "trial_user_attributes"):
            found = connection.execute(f"SELECT count(DISTINCT trial_id) FROM {rows}").fetchone()
            assert found == (saved,)
    assert not list(db.parent.glob("*.lock"))


def test_other_settings_are_refused_with_every_difference_and_the_earlier_command(db):
    with open_study(db, command_hint="python tools/prune_greedy.py --map_tol 0.02") as study:
        study.add(record_of(0))
    others = SETTINGS | {"map_tol": 0.1 + 0.2, "weights": "cd" * 32, "extra": True}
    del others["seed"]
    line = refusal(open_study, db, settings=others)
    assert line == (
        f"study 'default' in {db} was started with other settings: map_tol was 0.02, now 0.3; seed was 0, now not set; "
        "weights was abababababab..., now cdcdcdcdcdcd...; extra was not set, now true. "
        "Repeat the earlier command (python tools/prune_greedy.py --map_tol 0.02) to go on with it, "
        "or start a new study with --study NAME"
    )
    close = refusal(open_study, db, settings=SETTINGS | {"map_tol": 0.02 + 1e-12, "weights": "ab" * 31 + "cd"})
    assert "map_tol was 0.02, now 0.020000000001;" in close
    assert '...",' not in close
    with open_study(db, "other", settings=others) as study:
        assert study.records() == []


def test_settings_are_equal_when_their_json_is(db):
    with open_study(db, settings={"size": (160, 160), "rate": 1}):
        pass
    with open_study(db, settings={"rate": 1.0, "size": [160, 160]}) as study:
        assert study.records() == []


def test_studies_in_one_database_are_listed_and_read_without_a_lock(db):
    records = [record_of(i) for i in range(6)]
    with open_study(db, "first") as first, open_study(db, "second", settings={"seed": 1}) as second:
        for record in records:
            first.add(record)
        first.set_result({"AP": 0.5})
        second.add(replace(records[0], full_map=None))
        best = max(r.full_map for r in records if r.full_map is not None)
        assert list_studies(str(db)) == [("first", 6, True, best), ("second", 1, False, None)]
        assert load_result(str(db), "first") == (SETTINGS, records, {"AP": 0.5})
        assert load_result(f"sqlite:///{db}", "second")[0] == {"seed": 1}
        assert load_result(f"sqlite:///{db}", "second")[2] is None
    line = refusal(load_result, str(db))
    assert line == f"database {db} holds 2 studies; choose with --study: first (6 trials, done), second (1 trials)"
    line = refusal(load_result, str(db), "third")
    assert line == f"study 'third' is not in {db}; it holds: first (6 trials, done), second (1 trials)"


def test_the_only_study_needs_no_name(db):
    with open_study(db, "mine"):
        pass
    assert load_result(str(db)) == (SETTINGS, [], None)


def test_reading_makes_no_database_and_changes_none(db, tmp_path):
    assert "there is no database" in refusal(load_result, str(db))
    assert not db.parent.exists()
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE birds (name TEXT)")
    before = other.read_bytes()
    assert "holds no search" in refusal(list_studies, str(other))
    assert other.read_bytes() == before


def test_a_study_of_another_program_is_refused(db):
    with open_study(db) as study:
        study.add(record_of(0))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    theirs = optuna.create_study(study_name="theirs", storage=f"sqlite:///{db}")
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    for action in (open_study, load_result):
        assert "'theirs'" in refusal(action, str(db), "theirs")
        assert "was made by another program" in refusal(action, str(db), "theirs")
    optuna.load_study(study_name="default", storage=f"sqlite:///{db}").add_trial(theirs.trials[0])
    assert "trial 1: phase is missing; another program wrote it" in refusal(open_study, db)


def test_nothing_is_printed_and_no_warning_is_given(db, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_study(db) as study:
            study.add(record_of(0))
            study.records()
        load_result(str(db))
    assert capfd.readouterr() == ("", "")


def test_a_record_of_another_model_is_a_mistake_of_the_caller(db):
    with open_study(db) as study:
        with pytest.raises(ValueError, match="sites"):
            study.add(replace(record_of(0), widths={"encoder.0.attn": 8}))
        assert study.records() == []
