import json
import os
import signal
import time

import pytest

from greedyprune.study.lock import FileLock, StudyHeld

from .small_study import open_study, refusal, trial_of


class Child:
    """A forked process that opens a study, says so, and sleeps until it is killed."""

    def __init__(self, db, name="default", worker=False):
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                held = open_study(db, name)
                worker_pid = os.fork() if worker else 0  # a loader's worker: outlives its parent for a while
                if not worker or worker_pid:
                    os.write(writer, json.dumps({"worker": worker_pid, "name": held.name}).encode())
                time.sleep(60)
            finally:
                os._exit(1)
        os.close(writer)
        told = os.read(reader, 1000)
        os.close(reader)
        assert told, "the child could not take the lock"
        self.worker = json.loads(told)["worker"]

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def test_a_second_process_is_refused_with_who_holds_the_study_until_a_kill_frees_it(db):
    with open_study(db, command="the first"):
        pass
    child = Child(db)
    line = refusal(open_study, db)
    child.kill()
    assert line.startswith(f"study 'default' in {db} is in use by process {child.pid} on {os.uname().nodename} since 2")
    assert line.endswith(f"stop it (kill {child.pid} there), or start another study with --study NAME")
    with open_study(db) as study:
        assert study.trials() == []


def test_who_searched_last_is_not_told_for_who_holds_the_study(db):
    with open_study(db):
        pass
    child = Child(db)  # the study names it
    child.kill()
    lock = FileLock(db.with_name("prune.db.default.lock"), "x")  # a process that has not written yet
    assert "is in use by another process: wait for its end, stop it, or" in refusal(open_study, db)
    lock.release()


def test_a_killed_holder_frees_the_study_although_its_worker_lives_on(db):
    child = Child(db, worker=True)
    child.kill()
    with open_study(db):
        os.kill(child.worker, 0)  # still there
    os.kill(child.worker, signal.SIGKILL)


def test_a_forked_child_neither_writes_to_the_study_nor_frees_it(db):
    with open_study(db) as study:
        child = os.fork()
        if child == 0:
            try:
                study.add(trial_of(0))
            except RuntimeError:
                study.close()
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert f"process {os.getpid()} on" in refusal(open_study, db)
        study.add(trial_of(0))


def test_one_process_does_not_open_a_study_twice(db):
    with open_study(db):
        assert f"process {os.getpid()}" in refusal(open_study, db)
    with open_study(db):
        pass


def test_other_studies_of_the_database_stay_free(db):
    with (
        open_study(db, "one"),
        open_study(db, "two"),
        open_study(db, "name/with .. strange: characters"),
        open_study(db, "ü" * 200),
    ):
        assert "study 'one'" in refusal(open_study, db, "one")


def test_the_same_database_by_another_path_has_the_same_lock(db, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with open_study(db):
        assert "is in use" in refusal(open_study, tmp_path / "link" / "runs" / "prune" / "prune.db")
        assert "is in use" in refusal(open_study, f"sqlite:///{db}")


def test_a_released_lock_leaves_no_file_and_allows_no_writing(db):
    with open_study(db) as study:
        assert len(list(db.parent.glob("*.lock"))) == 1
    assert [path.name for path in db.parent.iterdir()] == ["prune.db"]
    with pytest.raises(RuntimeError, match="released"):
        study.add(trial_of(0))


def test_a_lock_file_that_is_removed_stops_the_writing(db):
    with open_study(db) as study:
        study.add(trial_of(0))
        db.with_name("prune.db.default.lock").unlink()
        assert "was removed, so that another process may search, too" in refusal(study.add, trial_of(1))
        with open_study(db) as other:
            other.add(trial_of(1))
            assert "was removed" in refusal(study.add, trial_of(2))
        assert study.lost is None
    assert not list(db.parent.glob("*.lock"))


def test_a_lock_file_left_by_a_killed_process_is_taken_whatever_it_holds(tmp_path):
    path = tmp_path / "x.lock"
    path.write_text("not what a lock file holds " * 100)
    lock = FileLock(path, "x")
    with pytest.raises(StudyHeld):
        FileLock(path, "x")
    lock.release()
    lock.release()
    assert not path.exists()


def test_a_lock_file_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    assert "x cannot be locked: " in refusal(FileLock, tmp_path / "file" / "x.lock", "x")
