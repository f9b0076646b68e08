"""Errors of databases in one line each: what is wrong, with which database, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from sqlalchemy import exc

from greedyprune.errors import UserError

REMEDY = "restore the database from a copy, or start a new study with --study NAME"

# What a database says, by way of SQLAlchemy or Optuna. All else that Optuna raises while it reads comes of a row.
DATABASE_ERRORS = (exc.SQLAlchemyError, optuna.exceptions.OptunaError)

_DAMAGE = (
    ("not a database", "is not a database: give another --db, or move that file away"),
    ("malformed", "is damaged: restore a copy of it, or give another --db"),
)
_REFUSALS = (
    ("readonly", "is read-only: make the file and its folder writable, or give another --db"),
    ("locked", "is locked by another program: close what has it open, then repeat the command"),
    ("disk is full", "cannot grow, the disk is full: what was saved stays; free some space, then repeat the command"),
    ("unable to open", "cannot be opened: check that its folder exists and that both may be written to"),
    ("disk i/o error", "cannot be read or written (disk I/O error): check the disk, its space and its quota"),
)
_NO_TABLE = ("no such table", 'relation "', "doesn't exist")  # SQLite, PostgreSQL, MySQL


class DatabaseDamaged(UserError):
    """A database that cannot be read, or that lacks Optuna's tables."""


class DatabaseLost(UserError):
    """The database of a running search is gone, or no longer holds what the search wrote into it."""


@contextmanager
def in_one_line(label: str, is_file: bool) -> Iterator[None]:
    """Turn the errors of a database into a UserError.

    Args:
        label: the database as messages call it.
        is_file: it is a SQLite file.

    Raises:
        DatabaseDamaged: it cannot be read, or lacks tables.
        UserError: it refuses for another reason.
    """
    try:
        yield
    except exc.DBAPIError as error:
        raise refused(error.orig, label, is_file) from error
    except optuna.exceptions.StorageInternalError as error:
        if not isinstance(error.__cause__, exc.DBAPIError):
            raise
        raise refused(error.__cause__.orig, label, is_file) from error.__cause__


def refused(error: BaseException | None, label: str, is_file: bool) -> UserError:
    """What a driver's error means to a user.

    Args:
        error: the driver's.
        label: the database as messages call it.
        is_file: it is a SQLite file.
    """
    detail = " ".join(str(error).split())
    if any(sign in detail for sign in _NO_TABLE):
        return DatabaseDamaged(f"database {label} holds no search")
    for kind, meanings in (DatabaseDamaged, _DAMAGE), (UserError, _REFUSALS):
        for sign, meaning in meanings if is_file else ():
            if sign in detail.lower():
                return kind(f"database {label} {meaning}")
    return UserError(f"database {label} refuses: {detail}")
