"""Databases that go missing, or lose what was written, while a study is open."""

import shutil
import sqlite3
from pathlib import Path

import optuna
import pytest

from greedyprune.study.reading import load_study
from greedyprune.study.refusals import DatabaseLost
from greedyprune.study.trial import Baseline

from .small_study import open_study, refusal, trial_of


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
    run_sql("DROP TABLE study_user_attributes"),
    run_sql("DELETE FROM trials WHERE number = 0"),
    run_sql("DELETE FROM trials"),
    run_sql("UPDATE trial_params SET param_value = 16 WHERE param_name = 'encoder.1.attn' AND trial_id = 1"),
    run_sql("DELETE FROM study_user_attributes WHERE key = 'baseline'"),
    run_sql("UPDATE study_user_attributes SET value_json = '{' WHERE key = 'fact: damage'"),
]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A study with a baseline, a fact and two trials."""
    db = tmp_path_factory.mktemp("template") / "prune.db"
    with open_study(db) as study:
        study.set_fact("damage", [0.1, 0.2])
        study.set_baseline(Baseline(0.5, 0.6, 10, 1.0))
        study.add(trial_of(0))
        study.add(trial_of(1))
    return db


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_loss_is_told_with_the_next_trial_and_nothing_more_is_written(db, template, lose):
    db.parent.mkdir(parents=True)
    shutil.copy(template, db)
    with open_study(db) as study:
        lose(db)
        after = db.read_bytes() if db.is_file() else None
        line = refusal(study.add, trial_of(2))
        assert line.startswith(f"study 'default' in {db}")
        assert isinstance(study.lost, DatabaseLost)
        study.add(trial_of(3))
        assert study.trials() == [trial_of(number) for number in range(4)]
        assert (db.read_bytes() if db.is_file() else None) == after


def test_what_is_known_of_a_lost_study_goes_into_another_database(db, template, tmp_path):
    db.parent.mkdir(parents=True)
    shutil.copy(template, db)
    with open_study(db) as study:
        db.unlink()
        with pytest.raises(DatabaseLost):
            study.set_fact("late", 1)
        study.add(trial_of(2))
        study.set_result({"AP": 0.5})
        study.copy_to(str(tmp_path / "rescued.db"))
    reading = load_study(str(tmp_path / "rescued.db"))
    assert reading.trials == [trial_of(number) for number in range(3)]
    assert (reading.facts, reading.result) == ({"damage": [0.1, 0.2], "late": 1}, {"AP": 0.5})
    with open_study(tmp_path / "rescued.db") as study:
        assert study.baseline() == Baseline(0.5, 0.6, 10, 1.0)


def test_a_search_in_another_study_of_the_database_and_a_reader_are_no_loss(db):
    with open_study(db) as study, open_study(db, "other") as other:
        for number in range(2):
            study.add(trial_of(number))
            other.add(trial_of(number))
            assert load_study(str(db), "default").trials == study.trials()
        optuna.load_study(study_name="default", storage=f"sqlite:///{db}").set_user_attr("note", "a person's")
        study.add(trial_of(2))
        assert study.lost is None


def test_a_journal_of_another_file_is_left_where_it_is(db, template):
    """Whoever puts another database in the place of the one that is open finds it as it was."""
    db.parent.mkdir(parents=True)
    shutil.copy(template, db)
    with open_study(db) as study:
        replace_by_another(db)
        before = db.read_bytes()
        assert "another file is in its place" in refusal(study.set_fact, "x", 1)
    assert db.read_bytes() == before
    assert load_study(str(db)).name == "another"
