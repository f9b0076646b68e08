"""What a study holds in Optuna, checked: trials and user attributes, whoever wrote them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from greedyprune.errors import UserError
from greedyprune.study.database import Database
from greedyprune.study.refusals import DATABASE_ERRORS, REMEDY
from greedyprune.study.run import read_run
from greedyprune.study.trial import Baseline, Trial
from greedyprune.study.trials import WidthRanges, is_unfinished, read_baseline, read_trial
from greedyprune.study.typed import Wrong, json_object, shown

VERSION, SETTINGS, RUN, BASELINE, RESULT = "greedyprune", "settings", "run", "baseline", "result"
FACT = "fact: "
MAKING = (VERSION, RUN, SETTINGS)  # what a study has before its search has found anything, in the order of writing


@dataclass
class Rows:
    """A study's content.

    Attributes:
        trials: those that have a result, in order.
        attributes: user attributes, as JSON values.
        seen: trials in the database, also those of other programs that have no result.
    """

    trials: list[Trial] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    seen: int = 0

    def settings(self) -> dict[str, Any]:
        """What the search depends on."""
        return dict(self.attributes[SETTINGS])

    def baseline(self) -> Baseline | None:
        """The dense model as it was measured, or None before that."""
        found = self.attributes.get(BASELINE)
        return None if found is None else read_baseline(found)

    def facts(self) -> dict[str, Any]:
        """Measurements by name."""
        found = self.attributes.items()
        return {key.removeprefix(FACT): value for key, value in found if key.startswith(FACT)}

    def result(self) -> dict[str, Any] | None:
        """The end of the search, or None while it goes on."""
        return self.attributes.get(RESULT)


def find_study(database: Database, name: str) -> optuna.Study | None:
    """Optuna's study of a name, with nothing of it in memory; None: there is none.

    Raises:
        UserError: the database refuses.
    """
    with database.asking() as storage:
        try:
            return optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            return None


@contextmanager
def told_of(place: str) -> Iterator[None]:
    """Turn what is wrong with the rows of a study into a UserError that names the study."""
    try:
        yield
    except Wrong as error:
        raise UserError(f"{place}: {error}; {REMEDY}") from None


def read_rows(
    database: Database, study: optuna.Study, place: str, *, begun: bool = True
) -> tuple[Rows, list[FrozenTrial]]:
    """A study's attributes, checked, and its trials as Optuna has them; see `add_trials`.

    Args:
        database: where it is.
        study: Optuna's.
        place: the study, for messages.
        begun: a study in which no search has found anything must have settings all the same.

    Raises:
        Wrong: names the field that no search wrote so.
        UserError: the study was made by another program or version.
    """
    rows, trials = Rows(attributes=read_attributes(database, study)), read_frozen(database, study)
    if study.directions != [StudyDirection.MAXIMIZE]:
        raise UserError(f"{place} was made by another program; start a new study with --study NAME")
    empty = is_empty(rows, trials)
    if empty and begun and SETTINGS not in rows.attributes:
        raise UserError(f"{place} is empty: no search has begun in it")
    if begun or not empty:
        _check_attributes(rows, place)
    return rows, trials


def is_empty(rows: Rows, trials: Sequence[FrozenTrial]) -> bool:
    """Whether no search has found anything in a study yet: such a study protects nothing."""
    return rows.attributes.keys() <= set(MAKING) and all(map(is_unfinished, trials))


def add_trials(rows: Rows, trials: Sequence[FrozenTrial], ranges: WidthRanges | None) -> None:
    """Read those trials of a study that are not yet in its rows.

    Args:
        rows: what was read before; gets the trials.
        trials: all of the study, in order.
        ranges: the widths that each site can have; None: not known.

    Raises:
        Wrong: names the trial and the field that no search wrote so.
    """
    for number, frozen in enumerate(trials[rows.seen :], start=rows.seen):
        try:
            if not is_unfinished(frozen):
                rows.trials.append(read_trial(frozen, number, ranges))
        except Wrong as error:
            raise Wrong(f"trial {number}:", str(error)) from None
        rows.seen = number + 1


def read_attributes(database: Database, study: optuna.Study) -> dict[str, Any]:
    """A study's user attributes.

    Raises:
        Wrong: one of them is not JSON.
        UserError: the database refuses.
    """
    with database.asking():
        try:
            found = study.user_attrs
        except DATABASE_ERRORS:
            raise
        except Exception as error:  # whatever a row makes Optuna stumble over
            raise Wrong("an attribute", stumbled(error)) from None
    for key in found:
        if not isinstance(key, str):
            raise Wrong("the name of an attribute", f"is {shown(key)}")
    return found


def read_frozen(database: Database, study: optuna.Study) -> list[FrozenTrial]:
    """A study's trials, in order; those that this study object has read before are not read again.

    Raises:
        Wrong: names the first trial that Optuna cannot read.
        UserError: the database refuses.
    """
    with database.asking() as storage:
        try:
            return study.get_trials(deepcopy=False)
        except DATABASE_ERRORS:
            raise
        except Exception as error:  # whatever a row makes Optuna stumble over
            raise _unreadable(storage, study, error) from None


def stumbled(error: Exception) -> str:
    """What a row is that Optuna cannot read: follows its name in a message."""
    if isinstance(error, json.JSONDecodeError):
        return f"is {shown(error.doc)}, which is not JSON"
    told = " ".join(str(error).split())
    return f"is not what Optuna writes ({type(error).__name__}: {told if len(told) <= 100 else told[:96] + '...'})"


def _unreadable(storage: optuna.storages.RDBStorage, study: optuna.Study, error: Exception) -> Wrong:
    """Which of the trials Optuna cannot read, and why, by reading one after another."""
    key, number = storage.get_study_id_from_name(study.study_name), 0
    while True:
        try:
            trial = storage.get_trial_id_from_study_id_trial_number(key, number)
        except KeyError:
            return Wrong("a trial", f"cannot be read: it {stumbled(error)}")
        try:
            storage.get_trial(trial)
        except Exception as found:
            return Wrong(f"trial {number}:", f"one of its values {stumbled(found)}")
        number += 1


def _check_attributes(rows: Rows, place: str) -> None:
    attributes = rows.attributes
    if not {VERSION, SETTINGS} <= attributes.keys():
        raise UserError(f"{place} was made by another program; start a new study with --study NAME")
    if "version" not in json_object(attributes[SETTINGS], SETTINGS):
        raise UserError(
            f"{place} was made by greedyprune {attributes[VERSION]}, whose studies this version cannot read; "
            "start a new study with --study NAME"
        )
    if RUN in attributes:
        read_run(attributes[RUN])
    if attributes.get(RESULT) is not None:
        json_object(attributes[RESULT], RESULT)
    rows.baseline()
