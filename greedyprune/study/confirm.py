"""Whether what a search wrote is where the next run will look for it."""

import json
import os
from typing import NoReturn

from greedyprune.errors import UserError
from greedyprune.study.database import Database
from greedyprune.study.refusals import DatabaseDamaged, DatabaseLost
from greedyprune.study.rows import RUN, Rows, add_trials, find_study, read_attributes, read_frozen
from greedyprune.study.trials import WidthRanges
from greedyprune.study.typed import Wrong


class Confirmation:
    """Reads a study again, as another process would.

    Args:
        database: where the study is.
        study: the study's name.
        ranges: the widths that each site can have.
    """

    def __init__(self, database: Database, study: str, ranges: WidthRanges) -> None:
        self._database, self._name, self._ranges = database, study, ranges
        self._place = database.location.place(study)
        self._file = self._first = database.location.find_file()
        self._reader = find_study(database, study)
        self._read = Rows()

    def check_before(self, known: Rows, *, anew: bool = False) -> None:
        """Check, before something is written, that the file is the one that was opened; where anything else has written
        into it meanwhile, that the study still holds all that is known.

        Args:
            known: what was read and written so far.
            anew: check the study in any case.

        Raises:
            DatabaseLost: it is not, or does not.
            UserError: the database does not answer.
        """
        if self._file_changed() or anew:
            self._reader, self._read = None, Rows()
            self._check(known)

    def check_after(self, known: Rows) -> None:
        """Check that the study holds what was written now, and as many trials as are known.

        Raises:
            DatabaseLost: it does not.
            UserError: the database does not answer.
        """
        self._check_file()
        self._check(known)
        self._file = self._check_file()

    def _check(self, known: Rows) -> None:
        try:
            if self._reader is None:
                self._database.check_pages()
                self._reader = find_study(self._database, self._name)
            if self._reader is None:
                self._lose("is not there any more")
            self._read.attributes = read_attributes(self._database, self._reader)
            add_trials(self._read, read_frozen(self._database, self._reader), self._ranges)
        except DatabaseDamaged as error:
            self._lose(f"cannot be read any more: {error}")
        except Wrong as error:
            self._lose(f"holds what was not written: {error}")
        read, count = self._read, len(known.trials)
        if read.trials[:count] != known.trials:
            self._lose(f"does not hold the {count} trials that were written")
        wanted = known.attributes.keys() - {RUN}
        if any(_dumped(read.attributes.get(key)) != _dumped(known.attributes[key]) for key in wanted):
            self._lose("does not hold the attributes that were written")
        if len(read.trials) > count or read.attributes.get(RUN) != known.attributes.get(RUN):
            raise UserError(
                f"{self._place} was written to by another process; what was saved stays; "
                "repeat the command when the other one has ended"
            )

    def _file_changed(self) -> bool:
        """Whether anything has written into the SQLite file since the last check."""
        found = self._check_file()
        if found is None or self._file is None:
            return False
        return (found.st_size, found.st_mtime_ns) != (self._file.st_size, self._file.st_mtime_ns)

    def _check_file(self) -> os.stat_result | None:
        """The facts of the SQLite file, which must be the one that was opened; None: there is none."""
        if self._first is None:
            return None
        try:
            found = self._database.location.find_file(missing_ok=True)
        except UserError as error:
            self._lose(f"is gone: {error}")
        if found is None:
            self._lose("is gone: the file was deleted or moved")
        if not os.path.samestat(found, self._first):
            self._lose("is gone: another file is in its place")
        if not found.st_size:
            self._lose("is gone: the file was emptied")
        return found

    def _lose(self, what: str) -> NoReturn:
        raise DatabaseLost(f"{self._place} {what}")


def _dumped(value: object) -> str:
    return json.dumps(value)  # unlike the value itself, not a number is equal to itself
