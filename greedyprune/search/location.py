"""Where a database is: a file, or a SQLAlchemy URL, checked before anything is opened or made."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from sqlalchemy import exc

from greedyprune.errors import UserError
from greedyprune.ranges import Range

_WAIT = Range(float, 0, 86_400)  # seconds, for `?timeout=`
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
        path: the SQLite file, absolute and without links; None: a server's.
        is_uri: the URL is a SQLite URI, which carries its own open mode.
    """

    url: sa.URL
    label: str
    path: Path | None
    is_uri: bool = False

    @classmethod
    def parse(cls, text: str) -> "Location":
        """Read what `--db` gives.

        Raises:
            UserError: no name of a file and no URL, or a SQLite URL with options that SQLite does not take.
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
        if url.get_backend_name() != "sqlite":
            return cls(url, url.render_as_string(hide_password=True), None)
        if url.username or url.password or url.host or url.port:
            raise UserError(
                "--db sqlite://... names a host, and SQLite has none; a file's URL has three slashes: sqlite:///prune.db"
            )
        is_uri = _check_query(text, url)
        return cls(url, text, _sqlite_path(url, is_uri), is_uri)

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


def _check_characters(text: str) -> None:
    """Refuse what no name can hold: NUL, and lone surrogates, as which bytes that are no UTF-8 arrive."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        name = repr(text) if "://" not in text else f"{text.split('://')[0]}://..."  # a URL may hold a password
        raise UserError(f"--db {name} has a character that no database's name can have; give another one")


def _check_query(text: str, url: sa.URL) -> bool:
    """Hold what follows the `?` of a SQLite URL against what can be given there; returns whether it is a URI."""
    uri = url.query.get("uri", "false")
    is_uri = uri in _YES
    for key, value in url.query.items():
        where = f"--db {text}: ?{key}"
        if not isinstance(value, str):
            raise UserError(f"{where} is given twice; give it once")
        if key == "timeout":
            _WAIT.check(_number(value), f"{where} (seconds to wait for a lock)")
        elif key == "uri":
            if uri not in (*_YES, *_NO):
                raise UserError(f"{where}={uri} is neither true nor false")
        elif key not in _OF_URI:
            raise UserError(f"{where} is no option of SQLite; leave it out")
        elif not is_uri:
            raise UserError(f"{where} needs a URI: sqlite:///file:PATH?{key}={value}&uri=true")
    return is_uri


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
