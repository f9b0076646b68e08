"""Databases that go missing, or lose what was written, while a study is open."""

import shutil
import sqlite3
from pathlib import Path

import optuna
import pytest

from greedyprune.search.database import DatabaseLost
from greedyprune.search.record import Baseline
from greedyprune.search.study import load_result

from .small_study import SETTINGS, open_study, record_of, refusal


def delete(db: Path) -> None:
    db.unlink()


def delete_folder(db: Path) -> None:
    shutil.rmtree(db.parent)


def move(db: Path) -> None:
    db.rename(db.with_name("elsewhere.db"))


def empty(db: Path) -> None:
    db.write_bytes(b"")


def cut(db: Path) -> None:
    with db.open("r+b") as file:
        file.truncate(db.stat().st_size // 2)


def replace_by_a_copy(db: Path) -> None:
    shutil.copy(db, db.with_name("copy.db"))
    db.with_name("copy.db").rename(db)


def replace_by_another(db: Path) -> None:
    with open_study(db.with_name("other.db"), "another"):
        pass
    db.with_name("other.db").rename(db)


def write_another_into_it(db: Path) -> None:
    run_sql("PRAGMA wal_checkpoint(TRUNCATE)")(db)  # or else the log holds all that the search needs
    with open_study(db.with_name("other.db"), "another"):
        pass
    shutil.copyfile(db.with_name("other.db"), db)


def replace_by_a_text(db: Path) -> None:
    db.write_text("Dear diary,\n" * 5000)


def replace_by_a_folder(db: Path) -> None:
    db.unlink()
    db.mkdir()


def delete_the_study(db: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.delete_study(study_name="default", storage=f"sqlite:///{db}")


def run_sql(statement: str):
    def run(db: Path) -> None:
        connection = sqlite3.connect(db)
        with connection:
            connection.execute(statement)
        connection.close()

    run.__name__ = statement
    return run


LOSSES = [
    delete,
    delete_folder,
    move,
    empty,
    cut,
    replace_by_a_copy,
    replace_by_another,
    write_another_into_it,
    replace_by_a_text,
    replace_by_a_folder,
    delete_the_study,
    run_sql("DROP TABLE trials"),
    run_sql("DROP TABLE trial_params"),
    run_sql("DROP TABLE study_user_attributes"),
    run_sql("DELETE FROM trials WHERE number = 2"),
    run_sql("DELETE FROM trials"),
    run_sql("DELETE FROM study_user_attributes WHERE key = 'baseline'"),
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A database with a study that knows something, made once."""
    path = tmp_path_factory.mktemp("begun") / "prune.db"
    with open_study(path) as study:
        study.set_fact("damage", [0.1, 0.2])
        study.set_baseline(Baseline(0.5, 0.6, 10, 1.0))
        for number in range(2):
            study.add(record_of(number))
    return path


@pytest.fixture
def known(begun, db) -> Path:
    """A copy of it."""
    db.parent.mkdir(parents=True)
    shutil.copy(begun, db)
    return db


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_loss_is_told_with_the_next_trial_and_nothing_that_was_known_is_forgotten(known, lose):
    with open_study(known) as study:
        study.add(record_of(2))
        lose(known)
        line = refusal(study.add, record_of(3))
        assert line.startswith(f"study 'default' in {known} ")
        assert isinstance(study.lost, DatabaseLost)
        study.add(record_of(4))  # known, though it is written nowhere
        assert study.records() == [record_of(number) for number in range(5)]


@pytest.mark.parametrize("lose", [delete, replace_by_another])
def test_what_is_known_goes_into_another_database_and_no_journal_stays_to_spoil_the_next_one(known, lose, tmp_path):
    with open_study(known) as study:
        study.add(record_of(2))
        lose(known)
        refusal(study.set_result, {"AP": 0.5})
        study.copy_to(str(tmp_path / "rescued.db"))
    assert load_result(str(tmp_path / "rescued.db")) == (SETTINGS, [record_of(i) for i in range(3)], {"AP": 0.5})
    with open_study(tmp_path / "rescued.db") as study:
        assert study.facts() == {"damage": [0.1, 0.2]}
    assert [path.name for path in known.parent.iterdir() if path != known] == []
    with open_study(known, "next") as study:
        assert study.records() == []


def test_a_database_that_others_write_to_and_check_is_not_lost(known):
    with open_study(known) as study, open_study(known, "another") as other:
        for number in range(2, 6):
            study.add(record_of(number))
            other.add(record_of(number))
        run_sql("PRAGMA wal_checkpoint(TRUNCATE)")(known)
        study.add(record_of(6))
        with sqlite3.connect(known) as connection:
            connection.execute("VACUUM")
        connection.close()
        study.add(record_of(7))
        assert study.lost is None
    assert load_result(str(known), "default")[1] == [record_of(number) for number in range(8)]


def test_a_log_that_is_left_of_a_deleted_database_is_told_before_it_spoils_a_new_one(db):
    db.parent.mkdir(parents=True)
    db.with_name("prune.db-wal").write_bytes(b"x" * 5000)
    assert "prune.db-wal is left of it and would spoil a new one; put the database back" in refusal(open_study, db)
    db.with_name("prune.db-wal").unlink()
    with open_study(db):
        pass


def test_a_lock_file_that_is_removed_ends_the_search(known):
    with open_study(known) as study:
        (lock,) = known.parent.glob("*.lock")
        lock.unlink()
        assert f"{lock} was removed, so that another process may search, too" in refusal(study.add, record_of(2))
        assert study.lost is None
