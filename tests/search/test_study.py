import itertools
import json
import os
import random
import signal
import sqlite3
import time
import uuid
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from greedyprune.errors import UserError
from greedyprune.search.database import is_on_network
from greedyprune.search.record import Baseline, Growth, Proposal, Record
from greedyprune.search.study import Study, list_studies, load_result

SITES = {
    f"{part}.{layer}.{kind}": (2048, 96) if kind == "ffn" else (256, 8)
    for part, kinds in (("encoder", ("attn", "ffn")), ("decoder", ("self", "cross", "ffn")))
    for layer in range(3)
    for kind in kinds
}
SETTINGS = {"schedule": "gp", "map_tol": 0.02, "seed": 0, "weights": "ab" * 32, "size": [160, 160], "note": None}


def record_of(number: int) -> Record:
    """A record that is a function of its number, with floats that need all their digits."""
    rng = random.Random(number)
    site = list(SITES)[number % len(SITES)]
    full, step = SITES[site]
    kept = rng.sample(range(full), rng.randint(1, 7) * step)
    growth = Growth(site, number, tuple(sorted(kept)), rng.choice([None, rng.random() * 20]), rng.random() < 0.5)
    proposal = Proposal(rng.choice(["budget", "move"]), number, rng.random(), rng.random() * 3, rng.random() < 0.5)
    return Record(
        origin=rng.choice([growth, proposal]),
        widths={name: width for name, (width, _) in SITES.items()} | {site: len(kept)},
        subset_map=rng.random(),
        full_map=rng.choice([None, rng.random()]),
        target=rng.random() / 3,
        params=rng.randrange(10**8),
        flops=rng.randrange(10**12),
        image_forwards=rng.randrange(10**5),
        seconds=rng.random() * 10,
    )


def open_study(url, name="default", settings=SETTINGS, **options):
    return Study.open(str(url), name, settings, sites=SITES, **options)


def refusal(action, *arguments, **options) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(UserError) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def db(tmp_path):
    return tmp_path / "runs" / "prune" / "prune.db"


def test_what_was_added_comes_back_exactly_and_in_order(db):
    # GREEDYPRUNE_TEST_DB may name an empty database of a server, which must do the same.
    url, name = os.environ.get("GREEDYPRUNE_TEST_DB", db), uuid.uuid4().hex
    records = [record_of(i) for i in range(40)]
    odd = Growth("encoder.0.ffn", 7, (), 5e-324, False)
    records[7] = replace(records[7], origin=odd, subset_map=-1.0, full_map=-1.0, target=0.1 + 0.2)
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
    with open_study(db, command_hint="python tools/prune_greedy.py --map_tol 0.02"):
        pass
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
    assert "trial 1 of the study was written by another program" in refusal(open_study, db)


@pytest.mark.parametrize("content", [b"Dear diary,\n" * 100, b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "diary.txt"
    path.write_bytes(content)
    for action in (open_study, load_result, list_studies):
        assert refusal(action, str(path)).startswith(f"database {path} is not a database: ")
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nosuch://host/name", "knows no database 'nosuch'"),
        ("sqlite+nosuch:///x.db", "knows no database 'sqlite+nosuch'"),
        ("mssql+pymssql://me:secret@host/name", "not installed: pip install pymssql"),
        ("postgresql://me:secret@host:port/name", "is not a database URL"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file:x?mode=memory&uri=true", "in memory"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_telling_its_password(url, words):
    line = refusal(open_study, url)
    assert words in line
    assert "secret" not in line


def test_a_folder_where_a_file_is_meant_is_refused(tmp_path):
    assert "is a folder" in refusal(open_study, tmp_path)
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refusal(open_study, tmp_path / "file" / "prune.db")


def test_a_read_only_database_is_refused_before_the_search(db):
    with open_study(db) as study:
        study.add(record_of(0))
    url = f"sqlite:///file:{db}?mode=ro&uri=true"
    assert "is read-only: make the file and its folder writable" in refusal(open_study, url)
    assert load_result(url)[1] == [record_of(0)]
    assert not list(db.parent.glob("*.lock"))


def test_a_database_that_another_program_keeps_locked_is_refused(db):
    with open_study(db):
        pass
    other = sqlite3.connect(db)
    other.execute("BEGIN EXCLUSIVE")
    url = f"sqlite:///{db}?timeout=0.1"
    assert "is locked by another program" in refusal(open_study, url)
    other.close()
    with open_study(url) as study:
        other = sqlite3.connect(db)
        other.execute("BEGIN IMMEDIATE")
        assert "is locked by another program" in refusal(study.add, record_of(0))
        other.close()
        study.add(record_of(0))
        assert study.records() == [record_of(0)]


def test_a_full_disk_stops_a_search_and_keeps_what_was_saved(db):
    room = [2]  # pages that the file may grow by

    def limit(connection):
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + room[0]}")

    def fill():
        for number in itertools.count(1):
            study.add(record_of(number))

    with open_study(db) as study:
        study.add(record_of(0))
        with sqlite3.connect(db) as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
        sa.event.listen(sa.Engine, "begin", limit)
        try:
            assert "the disk is full: what was saved stays" in refusal(fill)
            saved = len(study.records())
            assert study.records() == [record_of(i) for i in range(saved)]
            room[0] = 10**6
            study.add(record_of(saved))
        finally:
            sa.event.remove(sa.Engine, "begin", limit)
    assert load_result(str(db))[1] == [record_of(i) for i in range(saved + 1)]


@pytest.mark.parametrize(
    ("revision", "words"), [("v3.0.0.d", "an older Optuna: run `optuna storage upgrade"), ("v99.a", "a newer Optuna")]
)
def test_the_tables_of_another_optuna_are_refused_with_what_to_do(db, revision, words):
    with open_study(db):
        pass
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()
    for action in (open_study, load_result):
        assert words in refusal(action, str(db))
    assert not list(db.parent.glob("*.lock"))


def test_a_path_may_hold_any_character(tmp_path):
    path = tmp_path / "a {folder} %20" / "prüne? #1 & {SCHEMA_VERSION}.db"
    with open_study(path, "a/b ü?*") as study:
        study.add(record_of(0))
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert load_result(str(path))[1] == [record_of(0)]


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


@pytest.mark.parametrize(
    ("path", "network"),
    [
        ("/home/me/prune.db", True),
        ("/home/me/fast disk/prune.db", False),
        ("/home/me/fast disk/far/x/prune.db", True),
        ("/homes/prune.db", False),
    ],
)
def test_a_file_on_a_network_keeps_the_journal_that_other_hosts_understand(path, network):
    mounts = r"""/dev/sda1 / ext4 rw,relatime 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/me/fast\040disk xfs rw 0 0
old /home/me/fast\040disk/far ext4 rw 0 0
server:/far /home/me/fast\040disk/far lustre rw 0 0
"""
    assert is_on_network(Path(path), mounts) == network


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_a_study_needs_a_name_of_sensible_length(db, name):
    assert "1 to 200 characters" in refusal(open_study, db, name)
