"""The study: all that a search knows, in a database that Optuna and its dashboard open, too."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc

from greedyprune.errors import UserError
from greedyprune.ranges import check_ranges
from greedyprune.search.confirm import Confirmation
from greedyprune.search.database import Database, DatabaseLost
from greedyprune.search.lock import Lock, take_lock
from greedyprune.search.record import Baseline, Record
from greedyprune.search.rows import check_name, create_study, find_study, read_attributes, write_attributes
from greedyprune.search.settings import differences
from greedyprune.search.stored import REMEDY, Sites, Wrong, check_record, read_baseline, read_trial
from greedyprune.search.trials import insert_trial, read_trials, width_distributions
from greedyprune.version import __version__

_FACT = "fact: "


class Study:
    """A search's records, in order, and what they depend on. Open it with `Study.open`; it is a context manager.

    It knows in memory what it has read and written. After each write it looks, as another process would, whether the
    database has all of that (see `Confirmation`). Once it has not, nothing more is written; what is known stays.

    Attributes:
        name: its name in the database.
        place: the study and its database, for messages.
        bookkeeping_seconds: time spent in the database and its lock so far.
        lost: what has become of the database; None: it is where it was.
    """

    def __init__(self, database: Database, name: str, lock: Lock, sites: Sites) -> None:
        self.name, self.place = name, database.place(name)
        self.bookkeeping_seconds = 0.0
        self.lost: DatabaseLost | None = None
        self._database, self._lock, self._sites = database, lock, sites
        self._distributions = width_distributions(sites)
        self._confirmation = Confirmation(database.location, name, self.place)
        self._id = -1
        self._records: list[Record] = []
        self._attributes: dict[str, Any] = {}

    @classmethod
    def open(
        cls,
        url: str,
        name: str,
        settings: Mapping[str, Any],
        *,
        sites: Sites,
        command_hint: str = "",
    ) -> "Study":
        """Create a study or go on with it, and hold its lock until `close`.

        Args:
            url: a file, made with its folder where missing, or a SQLAlchemy URL.
            name: one database may hold several studies.
            settings: everything that decides the result, as JSON values. Those of an existing study must be equal,
                unless it is still empty.
            sites: site name -> its dense width and the step that its width grows by, for the range of a parameter.
            command_hint: the command that goes on with this study; told to who comes with other settings.

        Raises:
            UserError: the database cannot be used (see `Database`), another process holds the study, it was started
                with other settings, it was not made by a search, or its rows are not what a search writes.
        """
        started = time.perf_counter()
        check_name(name)
        database = Database(url, hold=True)
        try:
            database.create()
            database.remember_files()
            lock = take_lock(database, name)
        except BaseException:
            database.engine.dispose()
            raise
        try:
            study = cls(database, name, lock, sites)
            study._begin(json.loads(json.dumps(dict(settings))), command_hint)
        except BaseException:
            database.close()
            lock.release()
            raise
        study.bookkeeping_seconds = time.perf_counter() - started
        return study

    def records(self) -> list[Record]:
        """Every record of the study, in order."""
        return list(self._records)

    def add(self, record: Record) -> None:
        """Write a record as the next trial, in one transaction: a kill leaves all of it or nothing.

        Raises:
            DatabaseLost: the database is no longer there. The record is known nevertheless.
            UserError: the database refuses (full disk, locked ...), the lock was lost, or the record says what none
                can. What was saved stays.
        """
        self._check(record)

        def write(connection: sa.Connection) -> None:
            insert_trial(connection, self._database.tables, self._id, record, self._distributions)

        self._write(write, lambda: self._records.append(record))

    def baseline(self) -> Baseline | None:
        """The dense model as it was measured, or None before that."""
        found = self._attributes.get("baseline")
        return None if found is None else read_baseline(found)

    def set_baseline(self, baseline: Baseline) -> None:
        """Store the dense model's measurement."""
        self._set({"baseline": asdict(baseline)})

    def facts(self) -> dict[str, Any]:
        """What `set_fact` stored, by its key: measurements that proposals follow from."""
        found = self._attributes
        return {key.removeprefix(_FACT): value for key, value in found.items() if key.startswith(_FACT)}

    def set_fact(self, key: str, value: Any) -> None:
        """Store a measurement, as JSON values."""
        self._set({_FACT + key: value})

    def result(self) -> dict[str, Any] | None:
        """What `set_result` stored, or None while the search goes on."""
        return self._attributes.get("result")

    def set_result(self, result: Mapping[str, Any]) -> None:
        """Store the end of the search, as JSON values; it makes the study a finished one."""
        self._set({"result": dict(result)})

    def copy_to(self, url: str) -> None:
        """Write what is known into a study of the same name in another database.

        Raises:
            UserError: that database cannot be used.
        """
        known = dict(self._attributes)
        with Study.open(
            url, self.name, known.pop("settings"), sites=self._sites, command_hint=known.pop("command")
        ) as copy:
            copy._set(known)
            for record in self._records:
                copy.add(record)

    def close(self) -> None:
        """Give the lock and the database back."""
        with self._timed():
            self._database.close()
            self._lock.release()

    def __enter__(self) -> "Study":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, settings: dict[str, Any], command: str) -> None:
        tables = self._database.tables
        with self._database.transaction(write=True) as connection:
            self._lock.confirm(connection)
            found = find_study(connection, tables, self.name)
            if found is None:
                self._id = create_study(connection, tables, self.name)
                known: dict[str, Any] = {}
                new = {"greedyprune": __version__, "settings": settings}
            else:
                self._id = found
                known, self._records = _read(connection, self._database, found, self.place, self._sites)
                new = self._take_over(known, settings)
            # A resumed study is written to as well: a disk that refuses must say so before hours of work, not after.
            new["command"] = command
            write_attributes(connection, tables, self._id, new)
        self._attributes = known | new
        self._database.remember_files()
        self._confirmation.check(self._records, self._attributes)

    def _take_over(self, known: Mapping[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        """The attributes that a study of other settings gets; none where it has the same ones."""
        changes = differences(known["settings"], settings)
        if not changes:
            return {}
        if not self._records and known.keys() <= {"greedyprune", "settings", "command"}:
            return {"greedyprune": __version__, "settings": settings}  # an empty study protects nothing
        earlier = f" ({known['command']})" if known.get("command") else ""
        raise UserError(
            f"{self.place} was started with other settings: {'; '.join(changes)}. "
            f"Repeat the earlier command{earlier} to go on with it, or start a new study with --study NAME"
        )

    def _check(self, record: Record) -> None:
        """Nothing is written that could not be read."""
        if record.widths.keys() != self._sites.keys():
            raise ValueError(f"a record has the sites {list(record.widths)}, its study {list(self._sites)}")
        for part in (record, record.origin):
            check_ranges(part, lambda name: f"{name} of trial {len(self._records)}")
        try:
            check_record(record, self._sites)
        except Wrong as error:
            raise ValueError(str(error)) from None

    def _set(self, attributes: Mapping[str, Any]) -> None:
        def write(connection: sa.Connection) -> None:
            write_attributes(connection, self._database.tables, self._id, attributes)

        self._write(write, lambda: self._attributes.update(json.loads(json.dumps(attributes))))

    def _write(self, write: Callable[[sa.Connection], None], know: Callable[[], None]) -> None:
        """Write something and know it, and raise the loss of the database with which that is found out."""
        if self.lost is not None:
            know()
            return
        try:
            with self._timed(), self._database.transaction(write=True) as connection:
                self._lock.confirm(connection)
                write(connection)
        except (UserError, exc.IntegrityError) as error:
            self._confirm()  # what went before may be lost, too: then that is to be told
            if self.lost is None:
                what = error if isinstance(error, UserError) else " ".join(str(error.orig).split())
                raise UserError(str(what)) from error
        know()
        self._confirm()
        if self.lost is not None:
            raise self.lost

    def _confirm(self) -> None:
        if self.lost is None:
            try:
                with self._timed():
                    self._confirmation.check(self._records, self._attributes, whole="result" in self._attributes)
            except DatabaseLost as error:
                self.lost = error

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.bookkeeping_seconds += time.perf_counter() - started


class StudySummary(NamedTuple):
    """A study in a database.

    Attributes:
        name: its name.
        trials: how many it has.
        done: whether its search has ended with a result.
        best: the highest AP of a trial that was evaluated on all images; None without one.
    """

    name: str
    trials: int
    done: bool
    best: float | None


def list_studies(url: str) -> list[StudySummary]:
    """The studies in a database, oldest first. Takes no lock and changes nothing.

    Raises:
        UserError: there is no such database.
    """
    database = Database(url)
    database.check()
    return _summaries(database)


def load_result(url: str, name: str | None = None) -> tuple[dict[str, Any], list[Record], dict[str, Any] | None]:
    """Read a study, finished or not. Takes no lock and changes nothing.

    Args:
        url: a file or a SQLAlchemy URL.
        name: the study; None: the only one in the database.

    Returns:
        Its settings, its records in order, and its result (None while its search goes on).

    Raises:
        UserError: there is no such database or study, it was not made by a search, or its rows are not what a search
            writes.
    """
    if name is not None:
        check_name(name)
    database = Database(url)
    database.check()
    known = _summaries(database)
    holds = ", ".join(f"{s.name} ({s.trials} trials{', done' if s.done else ''})" for s in known) or "none"
    if name is None:
        if len(known) != 1:
            raise UserError(f"database {database.label} holds {len(known)} studies; choose with --study: {holds}")
        name = known[0].name
    with database.transaction(write=False) as connection:
        study_id = find_study(connection, database.tables, name)
        if study_id is None:
            raise UserError(f"study {name!r} is not in {database.label}; it holds: {holds}")
        attributes, records = _read(connection, database, study_id, database.place(name))
    return attributes["settings"], records, attributes.get("result")


def _read(
    connection: sa.Connection, database: Database, study_id: int, place: str, sites: Sites | None = None
) -> tuple[dict[str, Any], list[Record]]:
    """What a study's rows say, checked: its attributes and its records."""
    try:
        attributes = read_attributes(connection, database.tables, study_id)
        trials = read_trials(connection, database.tables, study_id)
        if "greedyprune" not in attributes:
            raise UserError(f"{place} was made by another program; start a new study with --study NAME")
        for key in ("settings", "result"):
            if not isinstance(attributes.get(key, {}), dict) or (key == "settings" and key not in attributes):
                raise Wrong(key, "is not an object with fields")
        if attributes.get("baseline") is not None:
            read_baseline(attributes["baseline"])
    except Wrong as error:
        raise UserError(f"{place}: {error}; {REMEDY}") from None
    return attributes, [read_trial(trial, number, sites, place) for number, trial in enumerate(trials)]


def _summaries(database: Database) -> list[StudySummary]:
    studies, trials, values = (database.tables[name] for name in ("studies", "trials", "trial_values"))
    attributes = database.tables["study_user_attributes"]
    complete = sa.case((trials.c.state == "COMPLETE", values.c.value))
    found = (
        sa.select(studies.c.study_id, studies.c.study_name, sa.func.count(trials.c.trial_id), sa.func.max(complete))
        .outerjoin(trials, trials.c.study_id == studies.c.study_id)
        .outerjoin(values, values.c.trial_id == trials.c.trial_id)
        .group_by(studies.c.study_id, studies.c.study_name)
        .order_by(studies.c.study_id)
    )
    with database.transaction(write=False) as connection:
        done = set(connection.execute(sa.select(attributes.c.study_id).where(attributes.c.key == "result")).scalars())
        return [StudySummary(name, count, key in done, best) for key, name, count, best in connection.execute(found)]
