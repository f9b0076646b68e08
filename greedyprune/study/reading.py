"""Studies read, finished or not: no lock is taken, and nothing is changed."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState

from greedyprune.errors import UserError
from greedyprune.study.database import Database
from greedyprune.study.location import Location, check_name
from greedyprune.study.refusals import DATABASE_ERRORS, REMEDY
from greedyprune.study.rows import (
    RESULT,
    add_trials,
    find_study,
    read_attributes,
    read_frozen,
    read_rows,
    stumbled,
    told_of,
)
from greedyprune.study.trial import Baseline, Trial


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


@dataclass(frozen=True)
class Reading:
    """A study's content.

    Attributes:
        name: its name.
        place: the study and its database, for messages.
        settings: everything that decides its result, as JSON values.
        trials: in order.
        baseline: the dense model as it was measured; None before that.
        facts: measurements that proposals follow from, by name.
        result: the end of its search; None while it goes on.
    """

    name: str
    place: str
    settings: dict[str, Any]
    trials: list[Trial]
    baseline: Baseline | None
    facts: dict[str, Any]
    result: dict[str, Any] | None


def list_studies(url: str) -> list[StudySummary]:
    """The studies in a database, oldest first.

    Args:
        url: a file or a SQLAlchemy URL.

    Raises:
        UserError: there is no such database, or it holds what Optuna cannot read.
    """
    return _summaries(_opened(url))


def load_study(url: str, name: str | None = None) -> Reading:
    """Read a study.

    Args:
        url: a file or a SQLAlchemy URL.
        name: the study; None: the only one in the database.

    Raises:
        UserError: there is no such database or study, it was not made by a search of this version, or it holds what no
            search writes.
    """
    if name is not None:
        check_name(name)
    database = _opened(url)
    if name is None:
        names = _names(database)
        if len(names) != 1:
            raise UserError(
                f"database {database.label} holds {len(names)} studies; choose with --study: {_held(database)}"
            )
        name = names[0]
    study = find_study(database, name)
    if study is None:
        raise UserError(f"study {name!r} is not in {database.label}; it holds: {_held(database)}")
    place = database.location.place(name)
    with told_of(place):
        rows, trials = read_rows(database, study, place)
        add_trials(rows, trials, None)
    return Reading(name, place, rows.settings(), rows.trials, rows.baseline(), rows.facts(), rows.result())


def _opened(url: str) -> Database:
    database = Database(Location.parse(url), write=False)
    database.open()
    return database


def _names(database: Database) -> list[str]:
    with database.asking() as storage:
        try:
            return optuna.get_all_study_names(storage)
        except DATABASE_ERRORS:
            raise
        except Exception as error:  # whatever a row makes Optuna stumble over; it reads all attributes of all studies
            raise UserError(
                f"database {database.label}: an attribute of one of its studies {stumbled(error)}; {REMEDY}"
            ) from None


def _summaries(database: Database) -> list[StudySummary]:
    found = ((name, find_study(database, name)) for name in _names(database))
    return [_summary(database, name, study) for name, study in found if study is not None]


def _summary(database: Database, name: str, study: optuna.Study) -> StudySummary:
    with told_of(database.location.place(name)):
        trials, attributes = read_frozen(database, study), read_attributes(database, study)
    values = [trial.values for trial in trials if trial.state == TrialState.COMPLETE]
    best = max((value[0] for value in values if value), default=None)
    finished = sum(trial.state.is_finished() for trial in trials)
    return StudySummary(name, finished, attributes.get(RESULT) is not None, best)


def _held(database: Database) -> str:
    """The studies of a database, for messages."""
    known = _summaries(database)
    return ", ".join(f"{s.name} ({s.trials} trials{', done' if s.done else ''})" for s in known) or "none"
