"""What the rows of a study must say: one door for all that is read, whoever wrote it."""

import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import gcd
from typing import Any, TypeVar

from greedyprune.errors import UserError
from greedyprune.ranges import COUNT, COUNT_OR_NONE, FINITE, ranges_of
from greedyprune.search.record import PHASES, Baseline, Growth, Proposal, Record

SUBSET, FULL = 0, 1  # steps of a trial's intermediate values

# Attribute of a trial -> field of a Record. Widths and APs are the trial's parameters and values; the fields of what
# it came from are attributes under their own names.
ATTRIBUTES = {
    "target": "target",
    "multiply_adds": "flops",
    "parameters": "params",
    "image_forwards": "image_forwards",
    "seconds": "seconds",
}
REMEDY = "restore the database from a copy, or start a new study with --study NAME"

Sites = Mapping[str, tuple[int, int]]  # site name -> its dense width and the step of its width
_TYPES: dict[type, str] = {dict: "an object with fields", list: "a list", str: "text", bool: "true or false"}
T = TypeVar("T")


class Wrong(Exception):
    """A stored value that cannot be what a search wrote; its text follows "FIELD "."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field} {text}")


@dataclass(frozen=True)
class StoredTrial:
    """A trial as a database gives it, unchecked.

    Attributes:
        number: its number in the study.
        state: Optuna's name of its state.
        value: its value.
        widths: its parameters.
        maps: its intermediate values, by step.
        attributes: its user attributes, as JSON.
    """

    number: Any
    state: Any
    value: Any
    widths: Mapping[str, Any]
    maps: Mapping[Any, Any]
    attributes: Mapping[str, Any]


def decode(key: str, text: Any) -> Any:
    """A stored JSON text.

    Raises:
        Wrong: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise Wrong(key, f"is {_shown(text)}, which is not JSON") from None


def read_baseline(values: Any) -> Baseline:
    """The dense model's measurement from its stored form.

    Raises:
        Wrong: it is none.
    """
    return _typed(Baseline, values, "baseline")


def read_trial(trial: StoredTrial, number: int, sites: Sites | None, place: str) -> Record:
    """A record from its stored form.

    Args:
        trial: the stored form.
        number: what its number must be: trials follow one another.
        sites: see `check_record`.
        place: the study, for messages.

    Raises:
        UserError: names the trial and the field that is wrong.
    """
    try:
        if trial.number != number:
            raise Wrong("number", f"is {_shown(trial.number)}, and {number} comes next; trials are missing or changed")
        if trial.state not in ("COMPLETE", "PRUNED"):
            raise Wrong("state", f"is {_shown(trial.state)}; another program added this trial")
        told = {name: decode(name, text) for name, text in trial.attributes.items()}
        values = {
            "origin": _origin(told),
            "widths": {name: _width(name, width) for name, width in trial.widths.items()},
            "subset_map": trial.maps.get(SUBSET),
            "full_map": trial.maps.get(FULL),
        }
        record = _typed(Record, values | {field: _get(told, name) for name, field in ATTRIBUTES.items()}, "")
        if (record.full_map is None) != (trial.state == "PRUNED"):
            raise Wrong("state", f"is {trial.state}, and its AP on all images {_shown(record.full_map)}")
        if trial.value != (record.subset_map if record.full_map is None else record.full_map):
            raise Wrong("value", f"is {_shown(trial.value)}, which is not its AP")
        check_record(record, sites)
    except Wrong as error:
        raise UserError(f"{place}: trial {number}: {error}; {REMEDY}") from None
    return record


def check_record(record: Record, sites: Sites | None) -> None:
    """Check what a record says of its sites.

    Args:
        record: of the right types.
        sites: site name -> its dense width and the step of its width; None: not known.

    Raises:
        Wrong: names the field.
    """
    if sites is not None:
        _check_widths(record.widths, sites)
    origin = record.origin
    if isinstance(origin, Growth):
        if origin.site not in record.widths:
            raise Wrong("site", f"is {_shown(origin.site)}, and there is no such site")
        if len(origin.kept) != record.widths[origin.site]:
            raise Wrong("kept", f"has {len(origin.kept)} channels, and the site's width is another")
    elif origin.phase not in PHASES:
        raise Wrong("phase", f"is {_shown(origin.phase)}; a later version of greedyprune may know it")


def check_sites(records: Sequence[Record], sites: Sites, place: str) -> None:
    """Check that records are of a model's sites.

    Raises:
        UserError: names the first trial that is not.
    """
    for number, record in enumerate(records):
        try:
            check_record(record, sites)
        except Wrong as error:
            raise UserError(f"{place}: trial {number}: {error}; {REMEDY}") from None


def _check_widths(widths: Mapping[str, int], sites: Sites) -> None:
    for name in [*sites, *widths]:
        if name not in widths:
            raise Wrong(name, "has no width")
        if name not in sites:
            raise Wrong(name, "is no site of the model that is searched")
        width, (full, step) = widths[name], sites[name]
        if width > full or width % gcd(full, step):
            raise Wrong(name, f"has width {width}, it must be a multiple of {gcd(full, step)} up to {full}")


def check_numbers(values: Any, count: int, what: str, place: str) -> list[float]:
    """A stored list of so many finite numbers.

    Raises:
        UserError: it is none.
    """
    if not isinstance(values, list) or len(values) != count or not all(map(FINITE.holds, values)):
        raise UserError(f"{place}: {what} is {_shown(values)}, it must be {count} numbers; {REMEDY}")
    return values


def check_values(values: Mapping[str, Any], wanted: Mapping[str, Any], place: str) -> None:
    """Hold stored values against what they must be.

    Args:
        values: by name.
        wanted: for each name that is needed a Range, a type, or a sequence of the values that it may have.
        place: the study and what the values are of, for messages.

    Raises:
        UserError: names the first that is missing or wrong.
    """
    for name, allowed in wanted.items():
        value = values.get(name)
        if isinstance(allowed, type):
            holds, text = isinstance(value, allowed), _TYPES[allowed]
        elif isinstance(allowed, Sequence):
            holds, text = value in allowed, "one of " + ", ".join(map(str, allowed))
        else:
            holds, text = allowed.holds(value), str(allowed)
        if not holds:
            told = f"is {_shown(value)}" if name in values else "is missing"
            raise UserError(f"{place}: {name} {told}, it must be {text}; {REMEDY}")


def _origin(told: Mapping[str, Any]) -> Growth | Proposal:
    return _typed(Growth, told, "") if "site" in told else _typed(Proposal, told, "")


def _typed(kind: type[T], values: Any, what: str) -> T:
    """An instance of a dataclass from values by the names of its fields; others are left out."""
    if not isinstance(values, Mapping):
        raise Wrong(what, f"is {_shown(values)}, not an object with fields")
    ranges, hints = ranges_of(kind), typing.get_type_hints(kind)
    made = {}
    for field in fields(kind):  # type: ignore[arg-type]
        name, hint = f"{what} {field.name}".strip(), hints[field.name]
        value = _get(values, field.name, name)
        if field.name == "kept":
            value = _kept(value)
        elif value is None and type(None) in typing.get_args(hint):
            pass
        elif field.name in ranges:
            if not ranges[field.name].holds(value):
                raise Wrong(name, f"is {_shown(value)}, it must be {ranges[field.name]}")
        elif hint in (bool, str) and not isinstance(value, hint):
            raise Wrong(name, f"is {_shown(value)}, it must be {'true or false' if hint is bool else 'text'}")
        made[field.name] = value
    return kind(**made)


def _get(values: Mapping[str, Any], key: str, name: str = "") -> Any:
    if key not in values:
        raise Wrong(name or key, "is missing; another program wrote it")
    return values[key]


def _width(name: str, width: Any) -> int:
    whole = int(width) if FINITE.holds(width) and width == int(width) else width
    if not COUNT.holds(whole):
        raise Wrong(name, f"has width {_shown(width)}, it must be {COUNT}")
    return whole


def _kept(channels: Any) -> tuple[int, ...]:
    if not isinstance(channels, list) or not all(map(COUNT_OR_NONE.holds, channels)):
        raise Wrong("kept", f"is {_shown(channels)}, not a list of channels")
    if channels != sorted(set(channels)):
        raise Wrong("kept", f"is {_shown(channels)}: its channels must ascend")
    return tuple(channels)


def _shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, (str, bytes)) else _dumped(value)
    return text if len(text) <= 40 else f"{text[:36]}..."


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value)
    except (ValueError, TypeError, RecursionError):
        return type(value).__name__
