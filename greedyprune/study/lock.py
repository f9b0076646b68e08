"""One process at a time on one study. The holder's death ends its lock; nothing has to be cleaned up by hand."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import filelock
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.pool import NullPool

from greedyprune.errors import UserError
from greedyprune.study.location import Location
from greedyprune.study.refusals import refused


class StudyHeld(Exception):
    """Another process holds the study."""


class Lock(Protocol):
    """The right to write to one study."""

    def confirm(self) -> bool:
        """Call it before anything is written. Whether the lock was lost and taken again: others may have written.

        Raises:
            UserError: another process may hold it now.
        """

    def release(self) -> None:
        """Give it back. More than once does no harm."""


def take_lock(location: Location, study: str) -> Lock:
    """Take the lock of a study.

    Args:
        location: the database that the study is, or will be, in.
        study: its name.

    Raises:
        StudyHeld: another process holds it.
        UserError: it cannot be locked.
    """
    if location.path is None:
        return ServerLock(location, study)
    stem = quote(study, safe=" ")
    if len(stem) > 100:  # file names end at 255 bytes
        stem = hashlib.sha256(study.encode()).hexdigest()[:32]
    return FileLock(location.path.with_name(f"{location.path.name}.{stem}.lock"), location.place(study))


class FileLock:
    """A lock on a file, which the system frees when the process ends, however it ends.

    Args:
        path: the file; made, and removed on release.
        place: the study, for messages.

    Raises:
        StudyHeld: another process holds it.
        UserError: the file cannot be made or locked.
    """

    def __init__(self, path: Path, place: str) -> None:
        self.path = path
        self._lock = filelock.FileLock(path, thread_local=False)
        try:
            self._lock.acquire(timeout=0)
            self._file = os.stat(path)
        except filelock.Timeout:
            raise StudyHeld from None
        except OSError as error:
            raise UserError(
                f"{place} cannot be locked: {error.strerror} ({path}); make its folder writable, or give another --db"
            ) from None
        self._process = os.getpid()

    def confirm(self) -> bool:
        if not self._is_held:
            raise RuntimeError(f"{self.path}: the lock was released, or belongs to the process that this one came from")
        if not self._is_there():
            raise UserError(
                f"{self.path} was removed, so that another process may search, too; what was saved stays; "
                "repeat the command, and leave that file alone while it runs"
            )
        return False

    def release(self) -> None:
        if self._is_held:
            if self._is_there():
                with suppress(OSError):  # Windows removes no file that is open
                    self.path.unlink()  # while it is held: who waits for this file finds that it has no name any more
            self._lock.release()

    @property
    def _is_held(self) -> bool:
        return self._process == os.getpid() and self._lock.is_locked  # a forked child has no lock

    def _is_there(self) -> bool:
        """Whether the path still names the file that is locked."""
        try:
            return os.path.samestat(os.stat(self.path), self._file)
        except OSError:
            return False


class ServerLock:
    """An advisory lock of a PostgreSQL, MySQL or MariaDB server, which frees it when its connection ends.

    Args:
        location: the database.
        study: name of the study.

    Raises:
        StudyHeld: another process holds it.
        UserError: the server does not answer.
    """

    def __init__(self, location: Location, study: str) -> None:
        self._place, self._label = location.place(study), location.label
        self._engine = sa.create_engine(location.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        name = f"greedyprune {location.url.database} {study.casefold()}"  # MySQL's names of studies ignore case
        digest = hashlib.sha256(name.encode()).digest()
        if location.url.get_backend_name() == "postgresql":
            key = int.from_bytes(digest[:8], "big", signed=True)
            self._take_it = sa.select(sa.func.pg_try_advisory_lock(key))
            self._session = sa.select(sa.func.pg_backend_pid())
        else:
            self._take_it = sa.select(sa.func.get_lock(digest.hex()[:60], 0))
            self._session = sa.select(sa.func.connection_id())
        self._connection: sa.Connection | None = None
        self._released = False
        try:
            self._take()
        except exc.DBAPIError as error:
            raise refused(error.orig, self._label, is_file=False) from error

    def confirm(self) -> bool:
        if self._released:
            raise RuntimeError(f"{self._place}: the lock was released")
        if self._is_held():
            return False
        self._close()
        try:
            self._take()
        except StudyHeld:
            raise UserError(
                f"{self._place} was taken over by another process while the connection to the database was cut; "
                "what was saved stays; repeat the command when the other one has ended"
            ) from None
        except exc.DBAPIError as error:
            raise refused(error.orig, self._label, is_file=False) from error
        return True

    def release(self) -> None:
        self._released = True
        self._close()

    def _is_held(self) -> bool:
        """Whether the connection that took the lock is there; a pool in between may have given us another one."""
        try:
            return self._connection is not None and self._connection.execute(self._session).scalar_one() == self._number
        except exc.SQLAlchemyError:
            return False

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(exc.SQLAlchemyError):  # what is cut holds no lock
                self._connection.close()
        self._connection = None

    def _take(self) -> None:
        connection = self._engine.connect()
        if not connection.execute(self._take_it).scalar_one():
            connection.close()
            raise StudyHeld
        self._connection, self._number = connection, connection.execute(self._session).scalar_one()
