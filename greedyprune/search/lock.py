"""One process at a time on one study. The holder's death ends its lock; nothing has to be cleaned up by hand."""

import hashlib
import json
import os
import platform
import sys
import threading
import time
import uuid
import weakref
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Protocol
from urllib.parse import quote

import sqlalchemy as sa

from greedyprune.errors import UserError
from greedyprune.search.database import Database, settle

if sys.platform != "win32":
    import fcntl

LEASE_SECONDS = 60.0  # after a holder falls silent (its machine died, or is cut off), others wait this long

_LEASES = sa.Table(
    "greedyprune_leases",
    sa.MetaData(),
    sa.Column("study", sa.String(255), primary_key=True),
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("expires", sa.Float(53), nullable=False),  # seconds since 1970, by the database's clock
)
_CLOCKS = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())",
    "mysql": "unix_timestamp(now(6))",
    "mariadb": "unix_timestamp(now(6))",
}


class Lock(Protocol):
    """The right to write to one study."""

    def confirm(self, connection: sa.Connection) -> None:
        """Call it in every transaction that writes.

        Raises:
            UserError: the lock was lost.
        """

    def release(self) -> None:
        """Give it back. More than once does no harm."""


def take_lock(database: Database, study: str) -> Lock:
    """Take the lock of a study.

    Args:
        database: where the study is, or will be.
        study: its name.

    Raises:
        UserError: another process holds it; says which.
    """
    if database.path is None or sys.platform == "win32":
        return Lease(database, study)
    stem = quote(study, safe=" ")
    if len(stem) > 100:  # file names end at 255 bytes
        stem = hashlib.sha256(study.encode()).hexdigest()[:32]
    path = database.path.with_name(f"{database.path.name}.{stem}.lock")
    return FileLock(path, database.place(study))


class FileLock:
    """A lock on a file, which the system frees when the process ends, however it ends.

    Args:
        path: the file; made, and removed on release.
        what: what it locks, for messages.

    Raises:
        UserError: another process holds it, or the file cannot be made or locked.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        try:
            self._file = self._take(what)
        except OSError as error:
            raise UserError(
                f"{what} cannot be locked: {error.strerror} ({path}); make its folder writable, or give another --db"
            ) from None
        holder = _describe_self().encode()
        os.pwrite(self._file.fileno(), holder, 0)  # before the cut: whoever reads finds a whole holder or an older one
        os.ftruncate(self._file.fileno(), len(holder))
        _held.add(self)

    def _take(self, what: str) -> Any:
        while True:
            file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with file:
                    _refuse(what, file.read().decode(errors="replace"))
            except OSError:
                file.close()
                raise
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                    return file
            file.close()  # its last holder removed it between our two calls; there may be a new one

    def confirm(self, connection: sa.Connection) -> None:
        if self._file.closed:
            raise RuntimeError(f"{self.path}: the lock was released, or belongs to the process that this one came from")
        if not self._is_there():
            raise UserError(
                f"{self.path} was removed, so that another process may search, too; what was saved stays; "
                "repeat the command, and leave that file alone while it runs"
            )

    def release(self) -> None:
        if not self._file.closed:
            if self._is_there():
                self.path.unlink(missing_ok=True)  # while it is held, so that nobody's but ours is removed
            self._file.close()

    def _is_there(self) -> bool:
        """Whether the path still names the file that is locked."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except OSError:
            return False

    def leave_to_parent(self) -> None:
        """Close a forked child's copy of the file: it would keep the lock after its parent's death."""
        self._file.close()


_held: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def _after_fork() -> None:
    for lock in _held:
        lock.leave_to_parent()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork)


class Lease:
    """A lock in the database itself: a row that its holder keeps renewing and that is free when it has expired.

    On the holder's own machine it is free as soon as the holder's process is gone.

    Args:
        database: any.
        study: name of the study.
        seconds: how long it lasts without being renewed.

    Raises:
        UserError: another process holds it.
    """

    def __init__(self, database: Database, study: str, seconds: float = LEASE_SECONDS) -> None:
        self._database, self._study, self._seconds = database, study, seconds
        self._what = database.place(study)
        self._token = uuid.uuid4().hex
        settle(self._make_table)
        settle(self._take)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease of {study}", daemon=True)
        self._thread.start()

    @property
    def _now(self) -> "sa.ColumnElement[float]":
        """The database's time: machines need not agree on theirs."""
        expression = _CLOCKS.get(self._database.url.get_backend_name())
        return sa.literal_column(expression, sa.Float(53)) if expression else sa.literal(time.time(), sa.Float(53))

    def _make_table(self) -> None:
        with self._database.transaction(write=True) as connection:
            _LEASES.create(connection, checkfirst=True)

    def _take(self) -> None:
        with self._database.transaction(write=True) as connection:
            ours = _LEASES.c.study == self._study
            # The row stays locked until the transaction ends. SQLite knows no such lock: its transaction is one.
            held = connection.execute(sa.select(_LEASES, self._now.label("now")).where(ours).with_for_update()).first()
            row = {"token": self._token, "holder": _describe_self(), "expires": self._now + self._seconds}
            if held is None:
                connection.execute(_LEASES.insert().values(study=self._study, **row))
                return
            if held.expires > held.now and not _is_dead(held.holder):
                _refuse(self._what, held.holder)
            connection.execute(_LEASES.update().where(ours).values(row))

    def confirm(self, connection: sa.Connection) -> None:
        # In the writer's own transaction: a process that lost the lease while it slept writes nothing.
        mine = (_LEASES.c.study == self._study) & (_LEASES.c.token == self._token)
        renewed = connection.execute(_LEASES.update().where(mine).values(expires=self._now + self._seconds))
        if renewed.rowcount != 1:
            raise UserError(
                f"{self._what} was taken over by another process while this one did not answer; "
                "what was saved stays; repeat the command when the other one has ended"
            )

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        mine = (_LEASES.c.study == self._study) & (_LEASES.c.token == self._token)
        with suppress(UserError), self._database.transaction(write=True) as connection:  # or else it expires
            connection.execute(_LEASES.delete().where(mine))

    def _keep(self) -> None:
        while not self._stop.wait(self._seconds / 6):
            with suppress(UserError), self._database.transaction(write=True) as connection:
                self.confirm(connection)  # a failure is the next writer's to tell, if it lasts that long


def _describe_self() -> str:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since, "machine": _machine()})


def _machine() -> str:
    """This boot of this machine and its process namespace: process ids can be compared within one only."""
    marks = [platform.node()]
    with suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        marks.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(marks)


def _is_dead(holder: str) -> bool:
    """Whether a holder's process is known to have ended."""
    known = _parse_holder(holder)
    if sys.platform == "win32" or known.get("machine") != _machine():
        return False
    try:
        os.kill(known["pid"], 0)  # signal 0 only asks
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _parse_holder(text: str) -> dict[str, Any]:
    try:
        known = json.loads(text)
        return known if {"pid", "host", "since", "machine"} <= known.keys() else {}
    except (ValueError, AttributeError):
        return {}


def _refuse(what: str, holder: str) -> NoReturn:
    known = _parse_holder(holder)
    who = "process {pid} on {host} since {since}".format_map(known) if known else "another process"
    stop = f"stop it (kill {known['pid']} there)" if known else "stop it"
    raise UserError(f"{what} is in use by {who}: wait for its end, {stop}, or start another study with --study NAME")
