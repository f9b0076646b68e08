"""The database that holds studies: where it is, its tables, its transactions, and what its errors mean to a user."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.pool import NullPool, QueuePool

from greedyprune.errors import UserError
from greedyprune.search.location import Location

BUSY_SECONDS = 10.0  # how long SQLite waits for another program's transaction; `?timeout=` in a URL overrides it

_TABLES = (
    "studies",
    "study_directions",
    "study_user_attributes",
    "trials",
    "trial_values",
    "trial_intermediate_values",
    "trial_params",
    "trial_user_attributes",
)
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "afs", "ceph", "lustre", "gpfs", "beegfs", "gluster", "fuse", "9p")
_DRIVER_PACKAGES = {"psycopg2": "psycopg2-binary", "psycopg": "'psycopg[binary]'", "MySQLdb": "mysqlclient"}
_SQLITE_DAMAGE = (
    ("not a database", "is not a database: give another --db, or move that file away"),
    ("malformed", "is damaged: restore a copy of it, or give another --db"),
)
_SQLITE_MEANINGS = (
    ("readonly", "is read-only: make the file and its folder writable, or give another --db"),
    ("locked", "is locked by another program: close what has it open, then repeat the command"),
    ("disk is full", "cannot grow, the disk is full: what was saved stays; free some space, then repeat the command"),
    ("unable to open", "cannot be opened: check that its folder exists and that both may be written to"),
    ("disk i/o error", "cannot be read or written (disk I/O error): check the disk, its space and its quota"),
)


class DatabaseDamaged(UserError):
    """What is there under a database's name is none, or not a whole one."""


class DatabaseLost(UserError):
    """The database of a running search is gone, or holds no longer what the search wrote into it."""


class Database:
    """Optuna's tables, in a SQLite file or in any other database that SQLAlchemy reaches.

    To a server, a connection is open only while a transaction runs: none times out during a long trial.

    Args:
        location: a file, or a SQLAlchemy URL, or either as text.
        hold: keep a SQLite file open between transactions, with a write-ahead log until `close`. A transaction then
            does not wait for the disk, and yet neither a kill nor a power failure leaves half of one.

    Attributes:
        label: the database as messages call it, without a password.
        path: the SQLite file; None for a server.
        engine: SQLAlchemy's.

    Raises:
        UserError: not a URL, or one whose dialect or driver is not there.
    """

    def __init__(self, location: Location | str, *, hold: bool = False) -> None:
        self.location = Location.parse(location) if isinstance(location, str) else location
        self.url, self.label, self.path = self.location.url, self.location.label, self.location.path
        self._files: dict[Path, os.stat_result] = {}
        sqlite = self.path is not None
        wait = {"timeout": BUSY_SECONDS} if sqlite and "timeout" not in self.url.query else {}
        pool = QueuePool if sqlite and hold else NullPool
        try:
            self.engine = sa.create_engine(self.url, poolclass=pool, connect_args=wait)
        except exc.NoSuchModuleError:
            raise UserError(
                f"--db {self.label}: SQLAlchemy knows no database {self.url.drivername!r}; "
                "give a file, or a URL that starts with sqlite://, postgresql:// or mysql://"
            ) from None
        except ImportError as error:
            package = _DRIVER_PACKAGES.get(error.name or "", error.name)
            raise UserError(
                f"--db {self.label} needs the Python module {error.name}, which is not installed: pip install {package}"
            ) from None
        except (TypeError, ValueError, exc.ArgumentError) as error:
            raise UserError(f"--db {self.label} cannot be used: {error}") from None
        if self.engine.dialect.is_async:
            raise UserError(f"--db {self.label}: {self.url.drivername} is an asynchronous driver; name another one")
        event.listen(self.engine, "do_connect", self._connect)
        self._reader = self.engine.execution_options(begin="BEGIN")
        if self.path is not None:
            event.listen(self.engine, "connect", _leave_transactions_alone)
            event.listen(self.engine, "begin", _begin)
            if hold and not is_on_network(self.path, _read_mounts()):
                event.listen(self.engine, "connect", _log_ahead)

    def place(self, study: str) -> str:
        """A study and this database, for messages."""
        return f"study {study!r} in {self.label}"

    def create(self) -> None:
        """Make what is missing (folder, file, tables), and check that the tables are of this Optuna's schema.

        Raises:
            UserError: the file cannot be made or is not a database, the server cannot be reached, or the tables are
                of another schema.
        """
        if self.path is not None and not self.location.is_uri:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self.location.find_file(missing_ok=True) is None:
                    if left := self.location.leftovers():
                        raise UserError(
                            f"database {self.label} is gone, but {left[0]} is left of it and would spoil a new one; "
                            "put the database back beside it, or remove it, too"
                        )
                    self._create_file(self.path)
                    return
            except OSError as error:
                raise UserError(f"database {self.label} cannot be made: {error.strerror} ({error.filename})") from None
        self.location.find_file(missing_ok=True)
        settle(lambda: self._open_with_optuna(skip_table_creation=False))

    def remember_files(self) -> None:
        """Keep in mind which files are open, for `close`."""
        for path in [*self.location.leftovers(), *([self.path] if self.path is not None else [])]:
            with suppress(FileNotFoundError):
                self._files[path] = os.stat(path)

    def close(self) -> None:
        """Close what is held open. A SQLite file gets its usual journal back, so that it is all there is.

        Where the file is not the one that was opened, its journal is removed instead: whatever comes in its place would
        be taken for what it belongs to.
        """
        if self.path is not None and self._is_open(self.path):
            with suppress(exc.DBAPIError), self.engine.execution_options(begin=None).connect() as connection:
                connection.exec_driver_sql("PRAGMA busy_timeout = 0")  # who reads now may go on: it works as it is, too
                connection.exec_driver_sql("PRAGMA journal_mode = DELETE")
            self.engine.dispose()
            return
        self.engine.dispose()
        for path in filter(self._is_open, self.location.leftovers()):
            path.unlink(missing_ok=True)

    def _is_open(self, path: Path) -> bool:
        """Whether a file is one of those that were opened."""
        with suppress(OSError):
            return path in self._files and os.path.samestat(os.stat(path), self._files[path])
        return False

    def check(self) -> None:
        """Check, without a change, that there is a database with Optuna's tables in this Optuna's schema.

        Raises:
            UserError: there is not.
        """
        self.location.find_file()
        if not self.has_tables():
            raise UserError(f"database {self.label} holds no search")
        self._open_with_optuna(skip_table_creation=True)

    def has_tables(self) -> bool:
        """Whether Optuna's tables are there."""
        with self.transaction(write=False) as connection:
            return {*_TABLES, "version_info", "alembic_version"} <= set(sa.inspect(connection).get_table_names())

    def check_pages(self) -> None:
        """Have SQLite check the structure of its file; of a server nothing is asked.

        Raises:
            UserError: it is damaged.
        """
        if self.path is not None:
            with self.transaction(write=False) as connection:
                told = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            if told != "ok":
                raise DatabaseDamaged(f"database {self.label} is damaged ({told})")

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[sa.Connection]:
        """One transaction: committed as a whole when the block ends, rolled back when it raises or the process dies.

        Raises:
            UserError: the database refuses.
        """
        with self._in_plain_words(), (self.engine if write else self._reader).begin() as connection:
            yield connection

    @cached_property
    def tables(self) -> dict[str, sa.Table]:
        """Optuna's tables by name, as they are in the database."""
        metadata = sa.MetaData()
        with self.transaction(write=False) as connection:
            metadata.reflect(connection, only=_TABLES)
        return dict(metadata.tables)

    def _connect(self, dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> Any:
        """Connect; what a driver says of options that it does not take is a mistake in the URL."""
        try:
            return dialect.connect(*arguments, **options)
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"--db {self.label} cannot be used: {error}") from None

    def _create_file(self, path: Path) -> None:
        """Make the tables in another file, then give it its name: nobody ever sees a part of them."""
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            draft = Database(name)
            event.listen(draft.engine, "connect", _skip_syncs)
            draft._open_with_optuna(skip_table_creation=False)
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

    def _open_with_optuna(self, skip_table_creation: bool) -> None:
        def connect() -> Any:
            connection = self.engine.raw_connection()
            connection.detach()
            return connection.dbapi_connection

        # Optuna gets connections, not the URL: a URL would lose what is odd in a path.
        options = {"creator": connect, "poolclass": NullPool}
        with self._in_plain_words():
            try:
                optuna.storages.RDBStorage(
                    f"{self.url.drivername}://", options, skip_table_creation=skip_table_creation
                )
            except optuna.exceptions.StorageInternalError as error:
                raise error.__cause__ or error from None
            except RuntimeError as error:
                place = self.label if "://" in self.label else f"sqlite:///{self.path}"
                what = (
                    f"an older Optuna: run `optuna storage upgrade --storage {place}`"
                    if "storage upgrade" in str(error)
                    else "a newer Optuna: pip install -U optuna"
                )
                raise UserError(f"database {self.label} was made by {what}, or give another --db") from error

    @contextmanager
    def _in_plain_words(self) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError:
            raise
        except exc.DBAPIError as error:
            detail = " ".join(str(error.orig).split())
            for kind, meanings in (DatabaseDamaged, _SQLITE_DAMAGE), (UserError, _SQLITE_MEANINGS):
                for sign, meaning in meanings if self.path is not None else ():
                    if sign in detail.lower():
                        raise kind(f"database {self.label} {meaning}") from error
            # A server that answers, but has no such database (PostgreSQL, MySQL).
            gone = self.path is None and ("does not exist" in detail or "Unknown database" in detail)
            raise (DatabaseDamaged if gone else UserError)(
                f"database {self.label} refuses: {detail}; check it and --db, then repeat the command"
            ) from error


def settle(action: Callable[[], None]) -> None:
    """Run what fails where another process makes the same tables or row in the same moment.

    It runs again then, to find what the other one made. Making a study's tables has four such steps.
    """
    for attempts_left in reversed(range(5)):
        try:
            action()
            return
        except (exc.IntegrityError, UserError) as error:
            made_meanwhile = isinstance(error, exc.IntegrityError) or "already exists" in str(error)
            if not made_meanwhile or not attempts_left:
                raise


def _leave_transactions_alone(connection: Any, _: Any) -> None:
    """Python's sqlite3 would begin transactions by itself, late: not before a SELECT."""
    connection.isolation_level = None


def _skip_syncs(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")


def _log_ahead(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin(connection: sa.Connection) -> None:
    """Take SQLite's write lock at the start, where waiting for it is possible and what was read stays true."""
    statement = connection.get_execution_options().get("begin", "BEGIN IMMEDIATE")
    if statement:
        connection.exec_driver_sql(statement)


def is_on_network(path: Path, mounts: str) -> bool:
    """Whether other hosts may have a file open, too: a write-ahead log needs memory that all its readers share.

    Args:
        path: an absolute path without links.
        mounts: the content of Linux's /proc/self/mounts.
    """
    found, depth = "", -1
    for line in mounts.splitlines():
        _, folder, kind = line.split(" ")[:3]
        folder = folder.replace("\\040", " ")
        if path.is_relative_to(folder) and len(folder) >= depth:  # of two mounts on one folder, the later one counts
            found, depth = kind, len(folder)
    return found.startswith(_NETWORK_FILE_SYSTEMS)


def _read_mounts() -> str:
    try:
        return Path("/proc/self/mounts").read_text(errors="replace")
    except OSError:  # not Linux
        return ""
