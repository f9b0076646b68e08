"""The study: all that a search knows, in a database that Optuna and its dashboard open, too."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any, NamedTuple

import sqlalchemy as sa

from greedyprune.errors import UserError
from greedyprune.search.database import Database
from greedyprune.search.lock import Lock, take_lock
from greedyprune.search.record import Baseline, Record
from greedyprune.search.trials import Tables, insert_trial, inserted_key, read_trials, width_distributions
from greedyprune.version import __version__

_ABSENT = object()
_FACT = "fact: "


class Study:
    """A search's records, in order, and what they depend on. Open it with `Study.open`; it is a context manager.

    Attributes:
        name: its name in the database.
        bookkeeping_seconds: time spent in the database and its lock so far.
    """

    def __init__(self, database: Database, name: str, lock: Lock, distributions: Mapping[str, str]) -> None:
        self.name = name
        self.bookkeeping_seconds = 0.0
        self._database, self._lock, self._distributions = database, lock, distributions
        self._id = -1
        self._records: list[Record] = []
        self._last_trial = -1

    @classmethod
    def open(
        cls,
        url: str,
        name: str,
        settings: Mapping[str, Any],
        *,
        sites: Mapping[str, tuple[int, int]],
        command_hint: str = "",
    ) -> "Study":
        """Create a study or go on with it, and hold its lock until `close`.

        Args:
            url: a file, made with its folder where missing, or a SQLAlchemy URL.
            name: one database may hold several studies.
            settings: everything that decides the result, as JSON values. Those of an existing study must be equal.
            sites: site name -> its dense width and the step that its width grows by, for the range of a parameter.
            command_hint: the command that goes on with this study; told to who comes with other settings.

        Raises:
            UserError: the database cannot be used (see `Database`), another process holds the study, it was started
                with other settings, or it was not made by a search.
        """
        started = time.perf_counter()
        if not 0 < len(name) <= 200:
            raise UserError(f"--study {name!r}: a study's name has 1 to 200 characters")
        database = Database(url, hold=True)
        try:
            database.create()
            lock = take_lock(database, name)
        except BaseException:
            database.engine.dispose()
            raise
        study = cls(database, name, lock, width_distributions(sites))
        try:
            study._begin(json.loads(json.dumps(dict(settings))), command_hint)
            study.records()  # a trial that is not ours must be told now, not in the end
        except BaseException:
            study.close()
            raise
        study.bookkeeping_seconds = time.perf_counter() - started
        return study

    def records(self) -> list[Record]:
        """Every record of the study, in order."""
        with self._timed(), self._database.transaction(write=False) as connection:
            for key, record in read_trials(connection, self._database.tables, self._id, after=self._last_trial):
                self._records.append(record)
                self._last_trial = key
        return list(self._records)

    def add(self, record: Record) -> None:
        """Write a record as the next trial, in one transaction: a kill leaves all of it or nothing.

        Raises:
            UserError: the database refuses (full disk, locked ...), or the lock was lost. What was saved stays.
        """
        with self._writing() as connection:
            insert_trial(connection, self._database.tables, self._id, record, self._distributions)

    def baseline(self) -> Baseline | None:
        """The dense model as it was measured, or None before that."""
        found = self._attributes().get("baseline")
        return None if found is None else Baseline(**found)

    def set_baseline(self, baseline: Baseline) -> None:
        """Store the dense model's measurement."""
        self._set({"baseline": asdict(baseline)})

    def facts(self) -> dict[str, Any]:
        """What `set_fact` stored, by its key: measurements that proposals follow from."""
        found = self._attributes()
        return {key.removeprefix(_FACT): value for key, value in found.items() if key.startswith(_FACT)}

    def set_fact(self, key: str, value: Any) -> None:
        """Store a measurement, as JSON values."""
        self._set({_FACT + key: value})

    def result(self) -> dict[str, Any] | None:
        """What `set_result` stored, or None while the search goes on."""
        return self._attributes().get("result")

    def set_result(self, result: Mapping[str, Any]) -> None:
        """Store the end of the search, as JSON values; it makes the study a finished one."""
        self._set({"result": dict(result)})

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
        with self._writing() as connection:
            found = _find(connection, tables, self.name)
            if found is None:
                self._id = _create(connection, tables, self.name)
                attributes = {"greedyprune": __version__, "settings": settings}
            else:
                self._id = found
                attributes = _read_attributes(connection, tables, found)
                place = f"study {self.name!r} in {self._database.label}"
                stored = _settings(attributes, place)
                differences = _differences(stored, settings)
                if differences:
                    earlier = f" ({attributes['command']})" if attributes.get("command") else ""
                    raise UserError(
                        f"{place} was started with other settings: {'; '.join(differences)}. "
                        f"Repeat the earlier command{earlier} to go on with it, or start a new study with --study NAME"
                    )
                attributes = {}
            # A resumed study is written to as well: a disk that refuses must say so before hours of work, not after.
            _write_attributes(connection, tables, self._id, {**attributes, "command": command})

    def _attributes(self) -> dict[str, Any]:
        with self._timed(), self._database.transaction(write=False) as connection:
            return _read_attributes(connection, self._database.tables, self._id)

    def _set(self, attributes: Mapping[str, Any]) -> None:
        with self._writing() as connection:
            _write_attributes(connection, self._database.tables, self._id, attributes)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._timed(), self._database.transaction(write=True) as connection:
            self._lock.confirm(connection)
            yield connection

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
        UserError: there is no such database or study, or it was not made by a search.
    """
    database = Database(url)
    database.check()
    known = _summaries(database)
    holds = ", ".join(f"{s.name} ({s.trials} trials{', done' if s.done else ''})" for s in known) or "none"
    if name is None:
        if len(known) != 1:
            raise UserError(f"database {database.label} holds {len(known)} studies; choose with --study: {holds}")
        name = known[0].name
    with database.transaction(write=False) as connection:
        study_id = _find(connection, database.tables, name)
        if study_id is None:
            raise UserError(f"study {name!r} is not in {database.label}; it holds: {holds}")
        attributes = _read_attributes(connection, database.tables, study_id)
        settings = _settings(attributes, f"study {name!r} in {database.label}")
        records = [record for _, record in read_trials(connection, database.tables, study_id)]
    return settings, records, attributes.get("result")


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


def _find(connection: sa.Connection, tables: Tables, name: str) -> int | None:
    studies = tables["studies"]
    return connection.execute(sa.select(studies.c.study_id).where(studies.c.study_name == name)).scalar_one_or_none()


def _create(connection: sa.Connection, tables: Tables, name: str) -> int:
    study_id = inserted_key(connection.execute(tables["studies"].insert().values(study_name=name)))
    direction = {"study_id": study_id, "objective": 0, "direction": "MAXIMIZE"}
    connection.execute(tables["study_directions"].insert().values(direction))
    return study_id


def _read_attributes(connection: sa.Connection, tables: Tables, study_id: int) -> dict[str, Any]:
    table = tables["study_user_attributes"]
    rows = connection.execute(sa.select(table.c.key, table.c.value_json).where(table.c.study_id == study_id))
    return {key: json.loads(value) for key, value in rows}


def _write_attributes(connection: sa.Connection, tables: Tables, study_id: int, attributes: Mapping[str, Any]) -> None:
    table = tables["study_user_attributes"]
    for key, value in attributes.items():
        connection.execute(table.delete().where(table.c.study_id == study_id, table.c.key == key))
        connection.execute(table.insert().values(study_id=study_id, key=key, value_json=json.dumps(value)))


def _settings(attributes: Mapping[str, Any], place: str) -> dict[str, Any]:
    if "greedyprune" not in attributes:
        raise UserError(f"{place} was made by another program; start a new study with --study NAME")
    return attributes["settings"]


def _differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Every setting that is not the same, with both values."""
    lines = []
    for key in {**stored, **given}:
        before, now = stored.get(key, _ABSENT), given.get(key, _ABSENT)
        if before != now:
            shown = _show(before), _show(now)
            if shown[0] == shown[1]:
                shown = json.dumps(before), json.dumps(now)
            lines.append(f"{key} was {shown[0]}, now {shown[1]}")
    return lines


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) and value else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
