"""The rows of a comparison in an Optuna study: one trial an arm, its AP as the trial's value."""

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from greedyprune.comparison.row import Row
from greedyprune.errors import UserError
from greedyprune.study.database import Database
from greedyprune.study.location import Location, check_name
from greedyprune.study.lock import Lock, StudyHeld, take_lock
from greedyprune.study.rows import find_study
from greedyprune.study.settings import differences

KIND = "greedyprune comparison"  # the attribute that tells such a study from a search's; its value is its form
FORM = 1
SETTINGS, ROW = "settings", "row"
_MOST_LAYERS = 10**6


class Record:
    """The rows of a comparison, and what they depend on. Open it with `Record.open`; it is a context manager.

    Attributes:
        place: the study and its database, for messages.
        rows: those that are there, by name, in the order in which they were measured.
    """

    def __init__(self, database: Database, lock: Lock, study: optuna.Study, place: str, rows: dict[str, Row]) -> None:
        self._database, self._lock, self._study = database, lock, study
        self.place, self.rows = place, rows

    @classmethod
    def open(cls, url: str, name: str, settings: Mapping[str, Any]) -> "Record":
        """Make a study or go on with it, and hold its lock until it is closed.

        Args:
            url: a file, made where it is missing, or a SQLAlchemy URL.
            name: one database may hold several studies.
            settings: everything that decides the numbers, as JSON values.

        Raises:
            UserError: the database cannot be used, another process holds the study, or it is of another comparison.
        """
        check_name(name)
        database = Database(Location.parse(url), write=True)
        database.open()
        place = database.location.place(name)
        try:
            lock = take_lock(database.location, name)
        except StudyHeld:
            raise UserError(f"{place} is held by another process that compares; wait for it, or give --study") from None
        try:
            study = find_study(database, name)
            with database.asking() as storage:
                if study is None:
                    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
                attributes, trials = study.user_attrs, study.get_trials(deepcopy=False)
                if not attributes and not trials:
                    study.set_user_attr(SETTINGS, json.dumps(settings))
                    study.set_user_attr(KIND, FORM)
                    attributes = study.user_attrs
            _check(attributes, settings, place)
            return cls(database, lock, study, place, _read(trials, place))
        except BaseException:
            lock.release()
            database.close()
            raise

    def add(self, row: Row) -> None:
        """Write a row, in one transaction.

        Raises:
            UserError: the database refuses.
        """
        self._lock.confirm()
        params: dict[str, float] = {}
        distributions: dict[str, BaseDistribution] = {}
        if row.method:
            whole = isinstance(row.amount, int)
            params[row.method] = row.amount
            distributions[row.method] = IntDistribution(0, _MOST_LAYERS) if whole else FloatDistribution(0.0, 1.0)
        trial = optuna.create_trial(
            params=params,
            distributions=distributions,
            value=row.final.accuracy["AP"],
            user_attrs={ROW: json.dumps(row.to_json(), allow_nan=False)},
        )
        with self._database.asking():
            self._study.add_trial(trial)
        self.rows[row.name] = row

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        self._lock.release()


def _check(attributes: Mapping[str, Any], settings: Mapping[str, Any], place: str) -> None:
    if attributes.get(KIND) != FORM:
        raise UserError(f"{place} is no comparison of this version; give another --study or --db")
    stored = _loaded(attributes.get(SETTINGS), f"{place}: its settings")
    if changes := differences(stored, json.loads(json.dumps(settings))):
        raise UserError(
            f"{place} was started with other settings: {'; '.join(changes)}. Repeat the earlier command to go on with "
            "it, or give another --study"
        )


def _read(trials: list[optuna.trial.FrozenTrial], place: str) -> dict[str, Row]:
    rows = {}
    for trial in trials:
        where = f"{place}, trial {trial.number}"
        row = Row.from_json(_loaded(trial.user_attrs.get(ROW), where), where)
        rows[row.name] = row
    return rows


def _loaded(text: object, place: str) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except ValueError:
        raise UserError(f"{place} is damaged: it is no JSON") from None
