"""Databases that hold studies: made, opened with Optuna, and asked by name for every single transaction."""

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy import exc
from sqlalchemy.pool import NullPool

from greedyprune.errors import UserError
from greedyprune.study.location import Location
from greedyprune.study.refusals import DatabaseDamaged, in_one_line, refused

_DRIVER_PACKAGES = {"psycopg2": "psycopg2-binary", "psycopg": "'psycopg[binary]'", "MySQLdb": "mysqlclient"}


class Database:
    """Optuna's storage in a SQLite file, or in a database of a PostgreSQL, MySQL or MariaDB server.

    Every transaction has its own connection, which is opened by the database's name: it sees what any other process
    would see there, and none times out while a trial takes hours. SQLite keeps its rollback journal and waits for the
    disk (`synchronous = EXTRA`): what is written stays written, whatever is killed or loses power.

    Args:
        location: where it is.
        write: whether it is opened for a search, which makes what is missing; or else nothing is changed.
        draft: what is written need not be on the disk before the file has its name.
    """

    def __init__(self, location: Location, *, write: bool, draft: bool = False) -> None:
        self.location, self.label = location, location.label
        self._write, self._synchronous = write, "OFF" if draft else "EXTRA"
        self._storage: optuna.storages.RDBStorage | None = None

    def open(self) -> None:
        """Open the database, and check that its tables are those of this Optuna.

        Raises:
            UserError: there is none (or, for a search, none can be made), it holds no study, it is of another Optuna,
                or it cannot be reached.
        """
        if self._write and self.location.may_be_made:
            self._make_file()
        self.location.find_file()
        _settle(self._open_storage)

    @contextmanager
    def asking(self) -> Iterator[optuna.storages.RDBStorage]:
        """The storage, whose errors are told in one line while Optuna logs nothing.

        Raises:
            UserError: the database refuses.
        """
        if self._storage is None:
            raise RuntimeError("the database is not open")
        with _silence(), in_one_line(self.label, self.location.path is not None):
            yield self._storage

    def check_pages(self) -> None:
        """Have SQLite check the structure of its file; of a server nothing is asked.

        Raises:
            DatabaseDamaged: it is damaged.
            UserError: the file cannot be read now.
        """
        if self.location.path is None:
            return
        try:
            connection = self._connect()
            try:
                told = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            finally:
                connection.close()
        except sqlite3.DatabaseError as error:
            raise refused(error, self.label, is_file=True) from error
        if told != "ok":
            raise DatabaseDamaged(f"database {self.label} is damaged ({told})")

    def close(self) -> None:
        """Let go of the storage; no connection is open."""
        self._storage = None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.location.uri, timeout=self.location.wait, uri=True)
        try:
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute(f"PRAGMA query_only = {'OFF' if self._write else 'ON'}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _make_file(self) -> None:
        """Make the SQLite file, where it is missing, with its folder."""
        path = self.location.path
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.location.find_file(missing_ok=True) is not None:
                return
            if left := self.location.leftovers():
                raise UserError(
                    f"database {self.label} is gone, but {left[0]} is left of it and would spoil a new one; "
                    "put the database back beside it, or remove it, too"
                )
            _make_tables(path)
        except OSError as error:
            raise UserError(f"database {self.label} cannot be made: {error.strerror} ({error.filename})") from None

    def _open_storage(self) -> None:
        # SQLite gets connections, not the URL: a URL would lose what is odd in a path. Optuna fills in templates.
        url, options = "sqlite://", {"poolclass": NullPool, "creator": self._connect}
        if self.location.path is None:
            url = self.location.url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
            options = {"poolclass": NullPool}
        with _silence(), in_one_line(self.label, self.location.path is not None):
            try:
                self._storage = optuna.storages.RDBStorage(url, options, skip_table_creation=not self._write)
            except ImportError as error:
                name = getattr(error.__cause__, "name", None) or error.name
                package = _DRIVER_PACKAGES.get(name or "", name)
                raise UserError(
                    f"--db {self.label} needs the Python module {name}, which is not installed: pip install {package}"
                ) from None
            except RuntimeError as error:  # Optuna's, of tables that another version made
                raise UserError(f"database {self.label} was made by {self._other_optuna(error)}") from error
            except (TypeError, ValueError, OverflowError, exc.ArgumentError) as error:  # options that no driver takes
                raise UserError(f"--db {self.label} cannot be used: {error}") from None

    def _other_optuna(self, error: RuntimeError) -> str:
        if "storage upgrade" not in str(error):
            return "a newer Optuna: pip install -U optuna, or give another --db"
        place = self.label if "://" in self.label else f"sqlite:///{self.location.path}"
        return f"an older Optuna: run `optuna storage upgrade --storage {place}`, or give another --db"


def _make_tables(path: Path) -> None:
    """Make a SQLite file with Optuna's tables under another name, then give it its own: nobody ever sees a part."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        draft = Database(Location.parse(name), write=True, draft=True)
        draft.open()
        draft.close()
        os.fsync(descriptor)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp makes files that only their owner can read
        try:
            os.link(name, path)  # unlike a rename, it spares a file that another process put there meanwhile
        except FileExistsError:
            pass
        except OSError:  # no hard links on this file system
            os.rename(name, path)
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


@contextmanager
def _silence() -> Iterator[None]:
    """Have Optuna log nothing; what a program chose for itself holds again afterwards."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _settle(action: Callable[[], Any]) -> None:
    """Run what fails where another process makes the same tables or rows in the same moment.

    It runs again then, to find what the other one made. Making a study's tables has four such steps.
    """
    for attempts_left in reversed(range(5)):
        try:
            action()
            return
        except (exc.IntegrityError, UserError) as error:
            made_meanwhile = isinstance(error.__cause__, exc.IntegrityError) or "already exists" in str(error)
            if not made_meanwhile or not attempts_left:
                raise
