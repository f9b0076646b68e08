"""The study: all that a search knows, as an Optuna study."""

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any

import optuna

from greedyprune.errors import UserError
from greedyprune.study.confirm import Confirmation
from greedyprune.study.database import Database
from greedyprune.study.location import Location, check_name
from greedyprune.study.lock import Lock, StudyHeld, take_lock
from greedyprune.study.refusals import DatabaseLost
from greedyprune.study.rows import (
    BASELINE,
    FACT,
    RESULT,
    RUN,
    SETTINGS,
    VERSION,
    Rows,
    add_trials,
    find_study,
    is_empty,
    read_attributes,
    read_rows,
    told_of,
)
from greedyprune.study.run import Run, read_run, refusal
from greedyprune.study.settings import differences
from greedyprune.study.trial import Baseline, Trial
from greedyprune.study.trials import WidthRanges, frozen_trial
from greedyprune.study.typed import Wrong
from greedyprune.version import __version__

_MYSQL_TEXT = 65_535  # bytes that a MySQL column of Optuna's takes; the others have no limit
_KEY = 512  # characters of an attribute's name


class Study:
    """A search's trials, in order, and what they depend on. Open it with `Study.open`; it is a context manager.

    It knows in memory what it has read and written. After each write it reads, as another process would, whether the
    database has all of that (see `Confirmation`). Once it has not, nothing more is written; what is known stays, and
    can be copied into another database.

    Attributes:
        name: its name in the database.
        place: the study and its database, for messages.
        bookkeeping_seconds: time spent in the database and its lock so far.
        lost: what has become of the database; None: it is where it was.
    """

    def __init__(
        self, database: Database, name: str, lock: Lock, ranges: WidthRanges, found: optuna.Study, known: Rows
    ) -> None:
        self.name, self.place = name, database.location.place(name)
        self.bookkeeping_seconds = 0.0
        self.lost: DatabaseLost | None = None
        self._database, self._lock, self._ranges = database, lock, dict(ranges)
        self._optuna, self._known = found, known
        self._confirmation = Confirmation(database, name, self._ranges)

    @classmethod
    def open(
        cls,
        url: str,
        name: str,
        settings: Mapping[str, Any],
        *,
        ranges: WidthRanges,
        command: str = "",
        later: Mapping[str, Any] | None = None,
    ) -> "Study":
        """Create a study or go on with it, and hold its lock until `close`.

        Args:
            url: a file, made with its folder where missing, or a SQLAlchemy URL.
            name: one database may hold several studies.
            settings: everything that decides the result, as JSON values, among them the `version` of their form. Those
                of an existing study must be equal, unless it is still empty.
            ranges: site name -> the widths that it can have.
            command: the command that goes on with this study; told to who comes with other settings.
            later: settings that earlier studies may lack, with what they mean there.

        Raises:
            UserError: the database cannot be used (see `Database`), another process holds the study, it was started
                with other settings, it was not made by a search of this version, or it holds what no search writes.
        """
        started = time.perf_counter()
        if "version" not in settings:
            raise ValueError("the settings of a study have a version")
        asked = json.loads(json.dumps(dict(settings)))
        check_name(name)
        database = Database(Location.parse(url), write=True)
        database.open()
        try:
            lock = take_lock(database.location, name)
        except StudyHeld:
            raise _refusal(database, name) from None
        try:
            study = cls(database, name, lock, ranges, *_found_or_made(database, name, asked, ranges, later or {}))
            study._begin(asked, command)
        except BaseException:
            lock.release()
            raise
        study.bookkeeping_seconds = time.perf_counter() - started
        return study

    def trials(self) -> list[Trial]:
        """Every trial of the study, in order."""
        return list(self._known.trials)

    def add(self, trial: Trial) -> None:
        """Write a trial, in one transaction: a kill leaves all of it or nothing.

        Raises:
            DatabaseLost: the database is no longer there. The trial is known nevertheless.
            UserError: the database refuses (full disk, locked ...), or the lock was lost. What was saved stays.
            ValueError: the trial says what none can.
        """
        frozen = frozen_trial(trial, self._known.seen, self._ranges)

        def know() -> None:
            self._known.trials.append(trial)
            self._known.seen += 1

        self._write(lambda: self._optuna.add_trial(frozen), know)

    def baseline(self) -> Baseline | None:
        """The dense model as it was measured, or None before that."""
        return self._known.baseline()

    def set_baseline(self, baseline: Baseline) -> None:
        """Store the dense model's measurement."""
        self._set(BASELINE, asdict(baseline))

    def facts(self) -> dict[str, Any]:
        """What `set_fact` stored, by its key: measurements that proposals follow from."""
        return copy.deepcopy(self._known.facts())

    def set_fact(self, key: str, value: Any) -> None:
        """Store a measurement, as JSON values."""
        self._set(FACT + key, value)

    def result(self) -> dict[str, Any] | None:
        """What `set_result` stored, or None while the search goes on."""
        return copy.deepcopy(self._known.result())

    def set_result(self, result: Mapping[str, Any]) -> None:
        """Store the end of the search, as JSON values; it makes the study a finished one."""
        self._set(RESULT, dict(result))

    def copy_to(self, url: str) -> None:
        """Write what is known into a study of the same name in another database.

        Raises:
            UserError: that database cannot be used.
        """
        known = self._known.attributes
        command = read_run(known[RUN]).command
        with Study.open(url, self.name, known[SETTINGS], ranges=self._ranges, command=command) as twin:
            for key, value in known.items():
                if key not in (VERSION, SETTINGS, RUN, RESULT):
                    twin._set(key, value)
            for trial in self._known.trials[len(twin._known.trials) :]:
                twin.add(trial)
            if RESULT in known:  # last, as it says that nothing is missing
                twin._set(RESULT, known[RESULT])

    def close(self) -> None:
        """Give the lock back."""
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
        """Write who goes on with the study, and with which settings where it has found nothing yet.

        A resumed study is written to as well: a disk that refuses must say so before hours of work, not after.
        """
        self._set(RUN, Run.now(command).to_json())
        if self._known.attributes.get(SETTINGS) != settings:
            self._set(VERSION, __version__)
            self._set(SETTINGS, settings)  # the last one: a study that has settings has begun

    def _set(self, key: str, value: Any) -> None:
        text = json.dumps(value)
        if len(key) > _KEY:
            raise ValueError(f"the name of an attribute has at most {_KEY} characters: {key}")
        on_mysql = self._database.location.url.get_backend_name() in ("mysql", "mariadb")
        if on_mysql and len(text) > _MYSQL_TEXT:
            raise UserError(
                f"{self.place}: {key} has {len(text):,} bytes, and MySQL stores at most {_MYSQL_TEXT:,}; "
                "give a file or a PostgreSQL database"
            )
        self._write(
            lambda: self._optuna.set_user_attr(key, value),
            lambda: self._known.attributes.update({key: json.loads(text)}),
        )

    def _write(self, write: Callable[[], None], know: Callable[[], None]) -> None:
        """Write something and know it, and raise the loss of the database with which that is found out."""
        if self.lost is not None:
            know()
            return
        with self._timed():
            try:
                self._confirmation.check_before(self._known, anew=self._lock.confirm())
                with self._database.asking():
                    try:
                        write()
                    except KeyError as error:  # Optuna's
                        raise DatabaseLost(f"{self.place} is not there any more") from error
            except UserError as error:
                self.lost = error if isinstance(error, DatabaseLost) else self._loss()
                if self.lost is None:
                    raise
            know()
            if self.lost is None:
                try:
                    self._confirmation.check_after(self._known)
                except DatabaseLost as error:
                    self.lost = error
        if self.lost is not None:
            raise self.lost

    def _loss(self) -> DatabaseLost | None:
        """What has become of a database that refused something; None: it is where it was, or does not answer."""
        try:
            self._confirmation.check_before(self._known, anew=True)
        except DatabaseLost as error:
            return error
        except UserError:
            return None
        return None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.bookkeeping_seconds += time.perf_counter() - started


def _found_or_made(
    database: Database, name: str, settings: Mapping[str, Any], ranges: WidthRanges, later: Mapping[str, Any]
) -> tuple[optuna.Study, Rows]:
    """Optuna's study, and what it holds: of the same settings, or nothing."""
    study, place = find_study(database, name), database.location.place(name)
    if study is None:
        with database.asking() as storage:
            return optuna.create_study(study_name=name, storage=storage, direction="maximize"), Rows()
    with told_of(place):
        rows, trials = read_rows(database, study, place, begun=False)
        if is_empty(rows, trials):
            rows.attributes.pop(SETTINGS, None)  # they are written anew
        else:
            _check_settings(rows, settings, place, later)  # before the trials, which may be of other sites
        add_trials(rows, trials, ranges)
    return study, rows


def _check_settings(rows: Rows, given: Mapping[str, Any], place: str, later: Mapping[str, Any]) -> None:
    """Refuse other settings than those of the study."""
    attributes, stored = rows.attributes, {**later, **rows.settings()}
    if stored["version"] != given["version"]:
        raise UserError(
            f"{place} was made by greedyprune {attributes[VERSION]}, with settings of version {stored['version']}, "
            f"and this one has version {given['version']}; start a new study with --study NAME"
        )
    if changes := differences(stored, given):
        command = read_run(attributes[RUN]).command if RUN in attributes else ""
        earlier = f" ({command})" if command else ""
        raise UserError(
            f"{place} was started with other settings: {'; '.join(changes)}. "
            f"Repeat the earlier command{earlier} to go on with it, or start a new study with --study NAME"
        )


def _refusal(database: Database, name: str) -> UserError:
    """The refusal of a study that another process holds."""
    stored = None
    with suppress(UserError, Wrong):
        study = find_study(database, name)
        stored = None if study is None else read_attributes(database, study).get(RUN)
    return refusal(database.location.place(name), stored)
