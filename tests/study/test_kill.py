"""What a kill leaves: whole trials or none, and a database that opens."""

import os
import random
import signal
import sqlite3
import time

import optuna
from optuna.trial import TrialState

from greedyprune.study.reading import load_study

from .small_study import open_study, trial_of


def add_until_killed(db, pipe) -> None:
    """A forked child's life: open the study, then add trial after trial and tell of each."""
    try:
        study = open_study(db)
        for number in range(len(study.trials()), 10**6):
            study.set_fact(f"row {number}", [number / 7] * 5)
            study.add(trial_of(number))
            os.write(pipe, b".")
    except BaseException as error:
        os.write(pipe, f"FAILED: {error!r}".encode())
    finally:
        os._exit(1)


def killed(db, wait: float, trials: int) -> bytes:
    """What a child told that was killed so many seconds after it had added so many trials."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        add_until_killed(db, writer)
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        told = b"".join(pipe.read(1) for _ in range(trials))
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while part := pipe.read(1000):
            told += part
    assert set(told) <= set(b"."), told
    return told


def test_a_kill_at_any_moment_leaves_whole_trials_and_a_database_that_opens(db):
    rng, saved = random.Random(0), 0
    for kill in range(10):
        # The first ones die while they make or open the database, the others in some part of a transaction.
        opening = kill < 4
        told = killed(db, rng.uniform(0, 0.4 if opening else 0.05), 0 if opening else 2)
        if saved + len(told):  # and so there is a study
            trials = load_study(str(db)).trials
            assert saved + len(told) <= len(trials) <= saved + len(told) + 1
            assert trials == [trial_of(i) for i in range(len(trials))]
            saved = len(trials)
    with open_study(db) as study:
        assert study.trials() == [trial_of(i) for i in range(saved)]
        assert {f"row {number}": [number / 7] * 5 for number in range(saved)}.items() <= study.facts().items()
    assert saved >= 12
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    theirs = optuna.load_study(study_name="default", storage=f"sqlite:///{db}")
    assert {trial.state for trial in theirs.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    connection = sqlite3.connect(db)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert not list(db.parent.glob("prune.db?*"))


def test_a_reader_takes_back_what_a_killed_search_was_writing(db):
    with open_study(db) as study:
        study.add(trial_of(0))
    before = db.read_bytes()
    # A child dies with pages of its transaction in the file, and those that were there before in the journal.
    child = os.fork()
    if child == 0:
        connection = sqlite3.connect(db)
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM trial_params")
        connection.execute("CREATE TABLE filler AS SELECT randomblob(100000) AS x")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert db.with_name("prune.db-journal").exists()
    assert db.read_bytes() != before
    assert load_study(str(db)).trials == [trial_of(0)]
    with open_study(db) as study:
        assert study.trials() == [trial_of(0)]
