"""Databases that go missing, or lose what was written, while a study is open."""

import shutil
import sqlite3
from pathlib import Path

import optuna
import pytest

from greedyprune.search.database import DatabaseLost
from greedyprune.search.record import Baseline
from greedyprune.search.study import load_result

from .small_study import open_study, record_of, refusal


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


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_loss_is_told_with_the_next_trial_and_what_is_known_goes_into_another_database(db, lose, tmp_path):
    with open_study(db) as study:
        study.set_fact("damage", [0.1, 0.2])
        study.set_baseline(Baseline(0.5, 0.6, 10, 1.0))
        for number in range(3):
            study.add(record_of(number))
        lose(db)
        line = refusal(study.add, record_of(3))
        print("LINE", line)
        assert line.startswith(f"study 'default' in {db}")
        assert isinstance(study.lost, DatabaseLost)
        study.add(record_of(4))
        study.copy_to(str(tmp_path / "rescued.db"))
    records = [record_of(number) for number in range(5)]
    assert load_result(str(tmp_path / "rescued.db"))[1] == records
    with open_study(tmp_path / "rescued.db") as study:
        assert study.records() == records
        assert study.facts() == {"damage": [0.1, 0.2]}
