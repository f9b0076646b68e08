"""Databases that a study cannot use, or can use only with care."""

import itertools
import sqlite3
import time

import pytest
import sqlalchemy as sa

from greedyprune.study.reading import list_studies, load_study

from .small_study import open_study, refusal, trial_of


@pytest.fixture
def impatient(monkeypatch):
    """Optuna tries to add a trial five times, and sleeps between."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.mark.parametrize("content", [b"Dear diary,\n" * 100, b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "diary.txt"
    path.write_bytes(content)
    for action in (open_study, load_study, list_studies):
        assert refusal(action, str(path)).startswith(f"database {path} is not a database: ")
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "--db is empty"),
        ("nosuch://host/name", "knows no database 'nosuch'"),
        ("sqlite+nosuch:///x.db", "is no driver for a study"),
        ("sqlite+aiosqlite:///x.db", "is no driver for a study"),
        ("mssql+pymssql://me:secret@host/name", "studies are not kept in mssql"),
        ("postgresql+pg8000://me:secret@host/name", "not installed: pip install pg8000"),
        ("postgresql+asyncpg://me:secret@host/name", "is an asynchronous driver"),
        ("postgresql://me:secret@host", "names no database on the server"),
        ("postgresql://me:secret@host:port/name", "is not a database URL"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file:x?mode=memory&uri=true", "in memory"),
        ("sqlite://host/x.db", "names a host"),
        ("sqlite:///x.db?timeout=soon", "?timeout (seconds to wait for a lock) is 'soon', it must be a number"),
        ("sqlite:///x.db?timeout=-1", "it must be a number of at least 0"),
        ("sqlite:///x.db?timeout=1&timeout=2", "?timeout is given twice"),
        ("sqlite:///x.db?mode=ro", "?mode needs a URI"),
        ("sqlite:///x.db?color=red", "?color is no option of SQLite"),
        ("sqlite:///x.db?uri=maybe", "?uri=maybe is neither true nor false"),
        ("a\0b.db", "has a character that no database's name can have"),
        ("sqlite:///a%00b.db?uri=true", "has a character that no database's name can have"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_telling_its_password(url, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for action in (open_study, load_study):
        line = refusal(action, url)
        assert words in line
        assert "secret" not in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_where_a_file_is_meant_is_refused(tmp_path):
    assert "is a folder" in refusal(open_study, tmp_path)
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refusal(open_study, tmp_path / "file" / "prune.db")


def test_a_journal_without_its_database_is_not_given_another_one(db):
    db.parent.mkdir(parents=True)
    db.with_name("prune.db-journal").write_bytes(b"x")
    assert "prune.db-journal is left of it and would spoil a new one" in refusal(open_study, db)
    assert not db.exists()


def test_an_empty_file_becomes_a_database(db):
    db.parent.mkdir(parents=True)
    db.touch()
    with open_study(db) as study:
        study.add(trial_of(0))
    assert load_study(str(db)).trials == [trial_of(0)]


def test_a_read_only_database_is_refused_before_the_search(db):
    with open_study(db) as study:
        study.add(trial_of(0))
    url = f"sqlite:///file:{db}?mode=ro&uri=true"
    assert "is read-only: make the file and its folder writable" in refusal(open_study, url)
    assert load_study(url).trials == [trial_of(0)]
    assert not list(db.parent.glob("*.lock"))
    missing = f"sqlite:///file:{db}.not?mode=rw&uri=true"
    assert "there is no database" in refusal(open_study, missing)


def test_a_database_that_another_program_keeps_locked_is_refused(db, impatient):
    with open_study(db):
        pass
    other = sqlite3.connect(db)
    other.execute("BEGIN EXCLUSIVE")
    url = f"sqlite:///{db}?timeout=0.1"
    for action in (open_study, load_study):
        assert "is locked by another program" in refusal(action, url)
    other.close()
    with open_study(url) as study:
        other = sqlite3.connect(db)
        other.execute("BEGIN IMMEDIATE")
        assert "is locked by another program" in refusal(study.add, trial_of(0))
        assert "is locked by another program" in refusal(study.set_fact, "x", 1)
        other.execute("COMMIT")
        other.execute("CREATE TABLE x (y)")  # a change, for which all is read again
        other.commit()
        other.execute("BEGIN EXCLUSIVE")
        assert "is locked by another program" in refusal(study.add, trial_of(0))
        other.close()
        assert study.lost is None
        study.add(trial_of(0))
        assert study.trials() == [trial_of(0)]
        assert study.facts() == {}


def test_a_full_disk_stops_a_search_and_keeps_what_was_saved(db, impatient):
    room = [2]  # pages that the file may grow by

    def limit(connection, _):
        connection.execute(f"PRAGMA max_page_count = {pages + room[0]}")

    def fill():
        for number in itertools.count(1):
            study.add(trial_of(number))

    with open_study(db) as study:
        study.add(trial_of(0))
        with sqlite3.connect(db) as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
        sa.event.listen(sa.Engine, "connect", limit)
        try:
            assert "the disk is full: what was saved stays" in refusal(fill)
            saved = len(study.trials())
            assert study.lost is None
            assert load_study(str(db)).trials == [trial_of(i) for i in range(saved)]
            room[0] = 10**6
            study.add(trial_of(saved))
        finally:
            sa.event.remove(sa.Engine, "connect", limit)
    assert load_study(str(db)).trials == [trial_of(i) for i in range(saved + 1)]


@pytest.mark.parametrize(
    ("revision", "words"), [("v3.0.0.d", "an older Optuna: run `optuna storage upgrade"), ("v99.a", "a newer Optuna")]
)
def test_the_tables_of_another_optuna_are_refused_with_what_to_do(db, revision, words):
    with open_study(db):
        pass
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()
    for action in (open_study, load_study):
        assert words in refusal(action, str(db))
    assert not list(db.parent.glob("*.lock"))


def test_a_path_may_hold_any_character(tmp_path):
    path = tmp_path / "a {folder} %20" / "prüne? #1 & {SCHEMA_VERSION}.db"
    with open_study(path, "a/b ü?*") as study:
        study.add(trial_of(0))
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert load_study(str(path)).trials == [trial_of(0)]
