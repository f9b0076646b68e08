"""Trials of a search as Optuna's, and back, exactly."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from datetime import timedelta

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from greedyprune.ranges import AMOUNT, COUNT_OR_NONE, FINITE, Range
from greedyprune.study.trial import Baseline, Grown, Trial
from greedyprune.study.typed import Ranges, Wrong, shown, typed

SUBSET, FULL = 0, 1  # steps of a trial's intermediate values

WidthRanges = Mapping[str, BaseDistribution]  # site name -> the widths that it can have

# Widths are Optuna's parameters, APs its values; all else is user attributes under the names of a Trial's fields.
_ATTRIBUTES = [field.name for field in fields(Trial) if field.name not in ("widths", "subset_map", "full_map")]
_AP = Range(float, -1, 1)  # COCO's, where -1 says that there was nothing to find
_SECONDS = Range(float, 0, 1e9)  # Optuna stores them as two dates
_RANGES: Ranges = {
    Trial: {
        "step": COUNT_OR_NONE,
        "share": FINITE,
        "subset_map": _AP,
        "full_map": _AP,
        "target": _AP,
        "params": COUNT_OR_NONE,
        "flops": COUNT_OR_NONE,
        "image_forwards": COUNT_OR_NONE,
        "seconds": _SECONDS,
        "predicted": FINITE,
    },
    Grown: {"round": COUNT_OR_NONE, "loss": FINITE},
    Baseline: {"subset_map": _AP, "full_map": _AP, "image_forwards": COUNT_OR_NONE, "seconds": AMOUNT},
}


def frozen_trial(trial: Trial, number: int, ranges: WidthRanges) -> FrozenTrial:
    """A trial as Optuna's: its value is the AP on all images, or on the subset where the early skip left those out.

    Args:
        trial: of the sites that have ranges.
        number: what it will have in the study.
        ranges: the widths that each site can have.

    Raises:
        ValueError: the trial says what none can say, and could not be read again.
    """
    if trial.widths.keys() != ranges.keys():
        raise ValueError(f"a trial has the sites {list(trial.widths)}, its study {list(ranges)}")
    maps = {SUBSET: trial.subset_map} if trial.full_map is None else {SUBSET: trial.subset_map, FULL: trial.full_map}
    told = asdict(trial)
    frozen = optuna.trial.create_trial(
        state=TrialState.PRUNED if trial.full_map is None else TrialState.COMPLETE,
        value=maps[max(maps)],
        params=dict(trial.widths),
        distributions={name: ranges[name] for name in trial.widths},
        intermediate_values=maps,
        user_attrs=json.loads(json.dumps({name: told[name] for name in _ATTRIBUTES})),
    )
    frozen.number = number
    try:
        same = read_trial(frozen, number, ranges) == trial
    except Wrong as error:
        raise ValueError(f"trial {number}: {error}") from None
    if not same:
        raise ValueError(f"trial {number} does not come back from JSON as it is")
    if frozen.datetime_complete is not None:
        frozen.datetime_start = frozen.datetime_complete - timedelta(seconds=trial.seconds)
    return frozen


def is_unfinished(frozen: FrozenTrial) -> bool:
    """Whether a trial is one that another program asked Optuna for and that has no result: it says nothing."""
    return frozen.state not in (TrialState.COMPLETE, TrialState.PRUNED) and "phase" not in frozen.user_attrs


def read_trial(frozen: FrozenTrial, number: int, ranges: WidthRanges | None) -> Trial:
    """A trial from Optuna's.

    Args:
        frozen: Optuna's.
        number: what its number must be: trials follow one another.
        ranges: the widths that each site can have; None: not known.

    Raises:
        Wrong: names the field that no search wrote so.
    """
    if frozen.number != number:
        raise Wrong("number", f"is {shown(frozen.number)}, and {number} comes next; trials are missing or changed")
    if frozen.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        raise Wrong("state", f"is {frozen.state.name}; another program changed it")
    told, maps = frozen.user_attrs, frozen.intermediate_values
    values = {name: told[name] for name in _ATTRIBUTES if name in told}
    values |= {"widths": dict(frozen.params), "subset_map": maps.get(SUBSET), "full_map": maps.get(FULL)}
    trial = typed(Trial, values, _RANGES)
    if (trial.full_map is None) != (frozen.state == TrialState.PRUNED):
        raise Wrong("state", f"is {frozen.state.name}, and its AP on all images {shown(trial.full_map)}")
    if frozen.values != [trial.subset_map if trial.full_map is None else trial.full_map]:
        raise Wrong("value", f"is {shown(frozen.values)}, which is not its AP")
    if trial.grown is not None and trial.grown.site not in trial.widths:
        raise Wrong("grown site", f"is {shown(trial.grown.site)}, and there is no such site")
    return trial if ranges is None else replace(trial, widths=_in_order(trial.widths, ranges))


def read_baseline(values: object) -> Baseline:
    """The dense model's measurement from its stored form.

    Raises:
        Wrong: it is none.
    """
    return typed(Baseline, values, _RANGES, "baseline")


def _in_order(widths: Mapping[str, int], ranges: WidthRanges) -> dict[str, int]:
    """Widths, checked, in the order of the sites."""
    for name in [*ranges, *widths]:
        if name not in widths:
            raise Wrong(name, "has no width")
        if name not in ranges:
            raise Wrong(name, "is no site of the model that is searched")
        _check_width(widths[name], name, ranges[name])
    return {name: widths[name] for name in ranges}


def _check_width(width: int, name: str, allowed: BaseDistribution) -> None:
    if not isinstance(allowed, IntDistribution):
        raise TypeError(f"widths are of an IntDistribution, not of {allowed}")
    low, high, step = allowed.low, allowed.high, allowed.step
    if not low <= width <= high or (width - low) % step:
        raise Wrong(name, f"has width {width}, it must be {low} to {high} in steps of {step}")
