"""Whether what a search wrote is where the next run will look for it."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from greedyprune.errors import UserError
from greedyprune.search.database import Database, DatabaseDamaged, DatabaseLost
from greedyprune.search.location import Location
from greedyprune.search.record import Record
from greedyprune.search.rows import find_study, read_attributes
from greedyprune.search.stored import Wrong, read_trial
from greedyprune.search.trials import count_trials, read_trials


class Confirmation:
    """Looks at a study as another process would: by the database's name, through connections of its own.

    Whoever deletes, replaces or empties the file of an open SQLite database does not disturb those who have it open:
    they go on writing to a file without a name.

    Args:
        location: the database, which is open elsewhere in this process.
        study: the study's name.
        place: the study, for messages.
    """

    def __init__(self, location: Location, study: str, place: str) -> None:
        self._database = Database(location)
        self._study, self._place = study, place
        self._file = location.find_file()

    def check(self, records: Sequence[Record], attributes: Mapping[str, Any], whole: bool = False) -> None:
        """Check that the study is there with what was written.

        Args:
            records: all that it has.
            attributes: all that it has.
            whole: read every record again; else the last one, and the others where the file has changed.

        Raises:
            DatabaseLost: it is not.
            UserError: the database does not answer.
        """
        changed = self._file_changed() or whole
        first = 0 if changed else max(0, len(records) - 1)
        try:
            if changed:
                self._database.check_pages()
            found, told = self._read(len(records), first - 1)
        except DatabaseDamaged as error:
            self._lose(f"cannot be read any more: {error}")
        except DatabaseLost:
            raise
        except UserError:
            if not self._database.has_tables():
                self._lose("is gone: the tables were dropped")
            raise
        try:
            last = [read_trial(trial, first + index, None, self._place) for index, trial in enumerate(found)]
        except UserError as error:
            raise DatabaseLost(str(error)) from None
        if last != list(records[first:]):
            self._lose(f"does not hold the {len(records)} trials that were written")
        if any(told.get(key) != value for key, value in attributes.items()):
            self._lose("does not hold the attributes that were written")

    def _read(self, trials: int, after: int) -> tuple[list[Any], dict[str, Any]]:
        tables = self._database.tables
        with self._database.transaction(write=False) as connection:
            key = find_study(connection, tables, self._study)
            if key is None:
                self._lose("is not there any more")
            if count_trials(connection, tables, key) != trials:
                self._lose(f"does not hold the {trials} trials that were written")
            try:
                return read_trials(connection, tables, key, after), read_attributes(connection, tables, key)
            except Wrong as error:
                self._lose(f"holds what was not written: {error}")

    def _file_changed(self) -> bool:
        """Whether the SQLite file is smaller than the last time, or has changed though a log takes what is written."""
        if self._file is None:
            return False
        try:
            found = self._database.location.find_file(missing_ok=True)
        except UserError as error:
            self._lose(f"is gone: {error}")
        if found is None:
            self._lose("is gone: the file was deleted or moved")
        if not os.path.samestat(found, self._file):
            self._lose("is gone: another file is in its place")
        if not found.st_size:
            self._lose("is gone: the file was emptied")
        before, self._file = self._file, found
        logged = any(path.name.endswith("-wal") for path in self._database.location.leftovers())
        return found.st_size < before.st_size or (logged and found.st_mtime_ns != before.st_mtime_ns)

    def _lose(self, what: str) -> NoReturn:
        raise DatabaseLost(f"{self._place} {what}")
