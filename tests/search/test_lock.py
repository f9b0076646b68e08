import json
import os
import signal
import threading
import time
import uuid

import pytest
import sqlalchemy as sa

from greedyprune.errors import UserError
from greedyprune.search.database import Database
from greedyprune.search.lock import FileLock, Lease
from greedyprune.search.record import Growth, Record
from greedyprune.search.study import Study

ELSEWHERE = {"pid": 1, "host": "elsewhere", "since": "2025-01-02 03:04:05+00:00", "machine": "elsewhere"}


@pytest.fixture
def db(tmp_path):
    return tmp_path / "prune.db"


@pytest.fixture
def database(db):
    """An empty SQLite file, or the server's database that GREEDYPRUNE_TEST_DB names."""
    return Database(os.environ.get("GREEDYPRUNE_TEST_DB", str(db)))


@pytest.fixture
def name():
    return uuid.uuid4().hex


def open_study(db, name="default"):
    return Study.open(str(db), name, {"seed": 0}, sites={"encoder.0.ffn": (8, 1)})


def a_record() -> Record:
    return Record(Growth("encoder.0.ffn", 0, (1,), 1.0, True), {"encoder.0.ffn": 1}, 0.5, 0.5, 0.5, 1, 1, 1, 1.0)


class Child:
    """A forked process that takes something, says so, and sleeps until it is killed."""

    def __init__(self, take, worker=False):
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                held = take()
                worker_pid = os.fork() if worker else 0  # a loader's worker: outlives its parent for a while
                if not worker or worker_pid:
                    os.write(writer, json.dumps({"worker": worker_pid, "type": type(held).__name__}).encode())
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


def refused(take) -> str:
    with pytest.raises(UserError) as caught:
        take()
    return str(caught.value)


def test_a_second_process_is_refused_with_who_holds_the_study_until_a_kill_frees_it(db):
    child = Child(lambda: open_study(db))
    line = refused(lambda: open_study(db))
    child.kill()
    assert line.startswith(f"study 'default' in {db} is in use by process {child.pid} on {os.uname().nodename} since 2")
    assert line.endswith(f"stop it (kill {child.pid} there), or start another study with --study NAME")
    with open_study(db) as study:
        assert study.records() == []


def test_a_killed_holder_frees_the_study_although_its_worker_lives_on(db):
    child = Child(lambda: open_study(db), worker=True)
    child.kill()
    with open_study(db):
        os.kill(child.worker, 0)  # still there
    os.kill(child.worker, signal.SIGKILL)


def test_one_process_does_not_open_a_study_twice(db):
    with open_study(db):
        assert f"process {os.getpid()}" in refused(lambda: open_study(db))
    with open_study(db):
        pass


def test_other_studies_of_the_database_stay_free(db):
    child = Child(lambda: open_study(db, "one"))
    with open_study(db, "two"), open_study(db, "name/with .. strange: characters"), open_study(db, "ü" * 200):
        assert refused(lambda: open_study(db, "one"))
    child.kill()


def test_the_same_database_by_another_path_has_the_same_lock(db, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with open_study(db):
        assert "is in use" in refused(lambda: open_study(tmp_path / "link" / "prune.db"))
        assert "is in use" in refused(lambda: open_study(f"sqlite:///{db}"))


def test_a_released_lock_leaves_no_file_and_allows_no_writing(db):
    with open_study(db) as study:
        assert len(list(db.parent.glob("*.lock"))) == 1
    assert [path.name for path in db.parent.iterdir()] == ["prune.db"]
    with pytest.raises(RuntimeError, match="released"):
        study.add(a_record())


def test_a_lock_file_left_by_a_killed_process_is_taken_whatever_it_holds(tmp_path):
    path = tmp_path / "x.lock"
    path.write_text("not what a lock file holds " * 100)
    lock = FileLock(path, "x")
    assert f"process {os.getpid()} on" in refused(lambda: FileLock(path, "x"))
    path.write_text("unreadable")
    assert "x is in use by another process: wait" in refused(lambda: FileLock(path, "x"))
    lock.release()
    lock.release()


def test_a_lock_file_that_cannot_be_made_is_told(tmp_path):
    assert "cannot be locked" in refused(lambda: FileLock(tmp_path / "missing" / "x.lock", "x"))


def change_lease(database, name, **values):
    """What another machine does to the row of a lease, through a connection of its own."""
    table = sa.Table("greedyprune_leases", sa.MetaData(), autoload_with=database.engine)
    with database.engine.begin() as connection:
        connection.execute(table.update().where(table.c.study == name).values(**values))


def expiry(database, name) -> float:
    with database.engine.begin() as connection:
        query = sa.text("SELECT expires FROM greedyprune_leases WHERE study = :name")
        return connection.execute(query, {"name": name}).scalar_one()


def test_a_lease_is_held_by_one_process_and_free_when_released(database, name):
    lease = Lease(database, name)
    assert f"process {os.getpid()} on" in refused(lambda: Lease(database, name))
    Lease(database, name + "x").release()
    lease.release()
    Lease(database, name).release()


def test_a_lease_of_a_killed_process_of_this_machine_is_free_at_once(database, name):
    child = Child(lambda: Lease(database, name))
    assert f"process {child.pid} on" in refused(lambda: Lease(database, name))
    child.kill()
    Lease(database, name).release()


def test_a_lease_of_another_machine_is_free_only_when_it_has_expired(database, name):
    lease = Lease(database, name)
    change_lease(database, name, token="other", holder=json.dumps(ELSEWHERE))
    assert "process 1 on elsewhere since 2025-01-02" in refused(lambda: Lease(database, name))
    change_lease(database, name, expires=expiry(database, name) - 61)
    Lease(database, name).release()
    lease.release()


def test_a_lease_is_renewed_while_its_holder_lives(database, name):
    lease = Lease(database, name, seconds=3)
    first, deadline = expiry(database, name), time.monotonic() + 20
    while expiry(database, name) <= first and time.monotonic() < deadline:
        time.sleep(0.05)
    assert expiry(database, name) > first
    lease.release()


def test_of_many_at_once_one_takes_a_lease(database, name):
    leases, lines, start = [], [], threading.Barrier(8)

    def take():
        start.wait()
        try:
            leases.append(Lease(database, name))
        except UserError as error:
            lines.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(leases) == 1
    assert len(lines) == 7
    assert all(f"in use by process {os.getpid()} on" in line for line in lines)
    leases[0].release()


def test_who_lost_the_lease_writes_nothing_more(database, name, monkeypatch):
    # SQLite takes file locks; with leases in their place it behaves as a server does.
    monkeypatch.setattr("greedyprune.search.study.take_lock", Lease)
    url = database.url.render_as_string(hide_password=False)
    with open_study(url, name) as study:
        study.add(a_record())
        change_lease(database, name, token="other", holder=json.dumps(ELSEWHERE))
        assert "was taken over by another process" in refused(lambda: study.add(a_record()))
        assert study.records() == [a_record()]
        assert "process 1 on elsewhere" in refused(lambda: open_study(url, name))
