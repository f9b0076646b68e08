"""Names of databases and studies: a file or a SQLAlchemy URL, checked before anything is opened or made."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlencode, urlsplit

import sqlalchemy as sa
from sqlalchemy import exc

from greedyprune.errors import UserError
from greedyprune.ranges import Range

BUSY_SECONDS = 10.0  # how long SQLite waits for another program's transaction; `?timeout=` in a URL overrides it

_WAIT = Range(float, 0, 86_400)  # seconds, for `?timeout=`
_SERVERS = ("postgresql", "mysql", "mariadb")
_YES, _NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_OF_URI = ("mode", "cache", "vfs", "psow", "nolock", "immutable")  # what SQLite itself takes, from a URI
_KINDS = {
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


@dataclass(frozen=True)
class Location:
    """A database by name.

    Attributes:
        url: SQLAlchemy's.
        label: the database as messages call it, without a password.
        path: the SQLite file, absolute and without links; None: a server's database.
        wait: seconds that SQLite waits for another program's transaction.
        options: what the URL says to SQLite itself, as `mode`.
    """

    url: sa.URL
    label: str
    path: Path | None
    wait: float = BUSY_SECONDS
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Location":
        """Read what `--db` gives.

        Raises:
            UserError: no name of a file and no URL, a database that cannot hold a study, or a SQLite URL with options
                that SQLite does not take.
        """
        if not text.strip():
            raise UserError("--db is empty; give a file, or a URL as sqlite:///runs/prune.db")
        _check_characters(text)
        if "://" not in text:
            url = sa.URL.create("sqlite", database=os.path.expanduser(text))
        else:
            try:
                url = sa.make_url(text)
            except (exc.ArgumentError, ValueError):  # without the text, which may hold a password
                raise UserError(
                    f"--db {text.split('://')[0]}://... is not a database URL; "
                    "give a file, or a URL as sqlite:///runs/prune.db or postgresql://user@host/name"
                ) from None
        _check_characters(url.database or "")  # "%00" is a character, too
        label = url.render_as_string(hide_password=True)
        if url.get_backend_name() != "sqlite":
            _check_server(url, label)
            return cls(url, label, None)
        if url.drivername not in ("sqlite", "sqlite+pysqlite"):
            raise UserError(f"--db {label}: {url.drivername!r} is no driver for a study; start the URL with sqlite://")
        if url.username or url.password or url.host or url.port:
            raise UserError(
                "--db sqlite://... names a host, and SQLite has none; a file's URL has three slashes: sqlite:///prune.db"
            )
        query = _checked_query(text, url)
        options = tuple((key, value) for key, value in query.items() if key in _OF_URI)
        wait = float(query.get("timeout", BUSY_SECONDS))
        return cls(url, text, _sqlite_path(url, query.get("uri") in _YES), wait, options)

    @property
    def uri(self) -> str:
        """The SQLite file as SQLite's own URI, which never makes a file."""
        if self.path is None:
            raise ValueError(f"{self.label} is no file")
        options = dict(self.options)
        options["mode"] = "ro" if options.get("mode") == "ro" else "rw"
        return f"{self.path.as_uri()}?{urlencode(options)}"

    @property
    def may_be_made(self) -> bool:
        """Whether a SQLite file is made where it is missing."""
        return self.path is not None and dict(self.options).get("mode", "rwc") == "rwc"

    def place(self, study: str) -> str:
        """A study in this database, for messages."""
        return f"study {study!r} in {self.label}"

    def find_file(self, missing_ok: bool = False) -> os.stat_result | None:
        """The facts of the SQLite file; None: it is not there, or this is a server's database.

        Raises:
            UserError: what is there is no file, it cannot be reached, or (unless `missing_ok`) it is not there.
        """
        if self.path is None:
            return None
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            if missing_ok:
                return None
            raise UserError(f"there is no database {self.label}; a search makes it") from None
        except OSError as error:
            raise UserError(f"database {self.label} cannot be opened: {error.strerror}; give another --db") from None
        if stat.S_ISDIR(found.st_mode):
            raise UserError(f"database {self.label} is a folder; give a file in it: {self.label}/prune.db")
        for is_kind, kind in _KINDS.items():
            if is_kind(found.st_mode):
                raise UserError(f"database {self.label} is {kind}, not a file; give another --db")
        return found

    def leftovers(self) -> list[Path]:
        """Journals beside a SQLite file, which belong to it."""
        if self.path is None:
            return []
        beside = [self.path.with_name(self.path.name + end) for end in ("-wal", "-journal", "-shm")]
        return [path for path in beside if path.exists()]


def check_name(name: str) -> None:
    """Refuse what is no name of a study.

    Raises:
        UserError: it is empty, too long, or has characters that cannot be shown.
    """
    shown = ascii(name[:40] + "..." if len(name) > 40 else name)
    if not 0 < len(name) <= 200:
        raise UserError(f"--study {shown}: a study's name has 1 to 200 characters")
    if not name.isprintable():
        raise UserError(f"--study {shown}: a study's name has characters that can be shown alone; give another one")


def _check_characters(text: str) -> None:
    """Refuse what no name can hold: NUL, and lone surrogates, as which bytes that are no UTF-8 arrive."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        name = repr(text) if "://" not in text else f"{text.split('://')[0]}://..."  # a URL may hold a password
        raise UserError(f"--db {name} has a character that no database's name can have; give another one")


def _check_server(url: sa.URL, label: str) -> None:
    """Refuse servers that Optuna does not know, and drivers that work otherwise than Optuna does."""
    try:
        dialect = url.get_dialect()
    except exc.NoSuchModuleError:
        raise UserError(
            f"--db {label}: SQLAlchemy knows no database {url.drivername!r}; "
            "give a file, or a URL that starts with sqlite://, postgresql:// or mysql://"
        ) from None
    if url.get_backend_name() not in _SERVERS:
        raise UserError(
            f"--db {label}: studies are not kept in {url.get_backend_name()}; "
            "give a file, or a URL that starts with sqlite://, postgresql:// or mysql://"
        )
    if dialect.is_async:
        raise UserError(f"--db {label}: {url.drivername} is an asynchronous driver; name another one")
    if not url.database:
        raise UserError(f"--db {label} names no database on the server; end the URL with its name")


def _checked_query(text: str, url: sa.URL) -> dict[str, str]:
    """What follows the `?` of a SQLite URL, held against what can be given there."""
    found = {}
    is_uri = url.query.get("uri", "false") in _YES
    for key, value in url.query.items():
        where = f"--db {text}: ?{key}"
        if not isinstance(value, str):
            raise UserError(f"{where} is given twice; give it once")
        if key == "timeout":
            _WAIT.check(_number(value), f"{where} (seconds to wait for a lock)")
        elif key == "uri":
            if value not in (*_YES, *_NO):
                raise UserError(f"{where}={value} is neither true nor false")
        elif key not in _OF_URI:
            raise UserError(f"{where} is no option of SQLite; leave it out")
        elif not is_uri:
            raise UserError(f"{where} needs a URI: sqlite:///file:PATH?{key}={value}&uri=true")
        found[key] = value
    return found


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _sqlite_path(url: sa.URL, is_uri: bool) -> Path:
    name = url.database or ":memory:"
    if name == ":memory:" or url.query.get("mode") == "memory":
        raise UserError(f"--db {url} is a database in memory, which forgets everything; give a file")
    if name.startswith("file:") and is_uri:
        name = unquote(urlsplit(name).path)
    return Path(os.path.realpath(name))  # unlike Path.resolve, it leaves a link to itself as it is
