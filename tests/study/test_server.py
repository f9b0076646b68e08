"""Studies on a database server. GREEDYPRUNE_TEST_DB names an empty database of one, PostgreSQL or MySQL."""

import os
import uuid

import optuna
import pytest
import sqlalchemy as sa

from greedyprune.study.reading import list_studies, load_study
from greedyprune.study.refusals import DatabaseLost

from .small_study import open_study, refusal, trial_of
from .test_lock import Child

URL = os.environ.get("GREEDYPRUNE_TEST_DB", "")
pytestmark = pytest.mark.skipif(not URL, reason="GREEDYPRUNE_TEST_DB names no server's database")


@pytest.fixture
def name():
    return uuid.uuid4().hex


def cut(study) -> None:
    """Have the server end the connection that holds the study's lock."""
    engine = sa.create_engine(URL, isolation_level="AUTOCOMMIT")
    ends = "SELECT pg_terminate_backend({})" if engine.name == "postgresql" else "KILL {}"
    with engine.connect() as connection:
        connection.exec_driver_sql(ends.format(study._lock._number))
    engine.dispose()


def test_one_process_at_a_time_has_a_study_until_it_is_killed(name):
    child = Child(URL, name)
    assert f"is in use by process {child.pid} on {os.uname().nodename}" in refusal(open_study, URL, name)
    with open_study(URL, name + "x") as other:
        other.add(trial_of(0))
    child.kill()
    with open_study(URL, name) as study:
        study.add(trial_of(0))
        assert f"process {os.getpid()}" in refusal(open_study, URL, name)
        assert load_study(URL, name).trials == [trial_of(0)]
    assert {(name, 1, False), (name + "x", 1, False)} <= {summary[:3] for summary in list_studies(URL)}


def test_a_lock_whose_connection_was_cut_is_taken_again_or_nothing_more_is_written(name):
    with open_study(URL, name) as study:
        cut(study)
        study.add(trial_of(0))
        assert "is in use" in refusal(open_study, URL, name)
        cut(study)
        with open_study(URL, name) as other:
            assert "was taken over by another process" in refusal(study.add, trial_of(1))
            other.add(trial_of(1))
        assert "was written to by another process" in refusal(study.add, trial_of(2))
        assert study.lost is None
    assert load_study(URL, name).trials == [trial_of(0), trial_of(1)]


def test_a_study_that_was_deleted_is_lost(name):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with open_study(URL, name) as study:
        study.add(trial_of(0))
        optuna.delete_study(study_name=name, storage=URL)
        assert "is not there any more" in refusal(study.add, trial_of(1))
        assert isinstance(study.lost, DatabaseLost)


def test_a_value_that_mysql_would_cut_is_refused(name):
    if sa.make_url(URL).get_backend_name() == "postgresql":
        pytest.skip("PostgreSQL stores texts of any length")
    with open_study(URL, name) as study:
        assert "fact: x has 70,002 bytes" in refusal(study.set_fact, "x", "x" * 70_000)
