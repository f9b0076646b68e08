"""Databases that a study cannot use, or can use only with care."""

import itertools
import os
import socket
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from greedyprune.search.database import is_on_network
from greedyprune.search.study import list_studies, load_result

from .small_study import open_study, record_of, refusal


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
        ("", "--db is empty"),
        ("sqlite:///x?foo=1", "?foo is no option of SQLite; leave it out"),
        ("sqlite:///x?timeout=abc", "it must be a number of at least 0"),
        ("sqlite:///x?timeout=nan", "it must be a number of at least 0"),
        ("sqlite:///x?timeout=1&timeout=2", "?timeout is given twice"),
        ("sqlite:///x?uri=maybe", "is neither true nor false"),
        ("sqlite:///x?mode=ro", "?mode needs a URI: sqlite:///file:PATH?mode=ro&uri=true"),
        ("sqlite:///x?isolation_level=foo", "?isolation_level is no option"),
        ("sqlite://me:secret@host/x", "SQLite has none"),
        ("://x", "is not a database URL"),
        ("x\0y", "has a character"),
        ("lone \udcff", "has a character"),
        ("postgresql://me:secret\udcff@host/x", "has a character"),
        ("sqlite:///%00x", "has a character"),
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


def test_what_is_no_file_is_refused_and_left_alone(tmp_path):
    os.symlink("loop", tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    words = {
        "loop": "cannot be opened: Too many levels of symbolic links",
        "pipe": "is a pipe",
        "socket": "is a socket",
    }
    for name, each in words.items():
        for action in (open_study, load_result):
            assert each in refusal(action, str(tmp_path / name))
    assert "is a device" in refusal(open_study, "/dev/null")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loop", "pipe", "socket"]


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
