"""Stored JSON values as typed objects: one door for all that is read, whoever wrote it."""

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from greedyprune.ranges import COUNT_OR_NONE, Range, ranges_of

T = TypeVar("T")
Ranges = Mapping[type, Mapping[str, Range]]


class Wrong(Exception):
    """A stored value that no search wrote.

    Args:
        field: which.
        text: what is wrong with it; the message is "FIELD TEXT".
    """

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field} {text}")


def typed(kind: type[T], values: object, ranges: Ranges, name: str = "") -> T:
    """An instance of a dataclass from stored values by the names of its fields; other values are left out.

    Fields may be text, true or false, numbers of a range, ascending channels (`tuple[int, ...]`), whole numbers by name
    (`dict[str, int]`), dataclasses of these, or None.

    Args:
        kind: the dataclass.
        values: what is stored.
        ranges: for each dataclass the ranges of its numbers that their types do not state.
        name: what the values are called in messages.

    Raises:
        Wrong: names the first field that is missing or wrong.
    """
    if not isinstance(values, Mapping):
        raise Wrong(name, f"is {shown(values)}, not an object with fields")
    hints, known = typing.get_type_hints(kind), {**ranges_of(kind), **ranges.get(kind, {})}
    made = {}
    for field in fields(kind):  # type: ignore[arg-type]
        where = f"{name} {field.name}".strip()
        if field.name not in values:
            raise Wrong(where, "is missing; another program wrote it")
        made[field.name] = _value(hints[field.name], values[field.name], where, known.get(field.name), ranges)
    return kind(**made)


def json_object(values: object, name: str) -> dict[str, Any]:
    """A stored object.

    Raises:
        Wrong: it is none.
    """
    if not isinstance(values, dict):
        raise Wrong(name, f"is {shown(values)}, not an object with fields")
    return values


def shown(value: object) -> str:
    """A stored value for a message."""
    text = ascii(value) if isinstance(value, (str, bytes)) else _dumped(value)
    return text if len(text) <= 40 else f"{text[:36]}..."


def _value(hint: Any, value: Any, name: str, allowed: Range | None, ranges: Ranges) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (option for option in typing.get_args(hint) if option is not types.NoneType)
    if is_dataclass(hint):
        return typed(typing.cast(type, hint), value, ranges, name)
    if hint in (bool, str):
        if not isinstance(value, hint):
            raise Wrong(name, f"is {shown(value)}, it must be {'true or false' if hint is bool else 'text'}")
    elif hint in (int, float):
        if allowed is None:
            raise TypeError(f"no range is stated for {name}")
        _check_number(value, name, allowed)
    elif hint == tuple[int, ...]:
        return _channels(value, name)
    elif hint == dict[str, int]:
        for key, number in json_object(value, name).items():
            _check_number(number, f"{name} of {key}", COUNT_OR_NONE)
    else:
        raise TypeError(f"{name}: {hint} cannot be stored")
    return value


def _check_number(value: object, name: str, allowed: Range) -> None:
    if not allowed.holds(value):
        raise Wrong(name, f"is {shown(value)}, it must be {allowed}")


def _channels(value: object, name: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(map(COUNT_OR_NONE.holds, value)):
        raise Wrong(name, f"is {shown(value)}, not a list of channels")
    if value != sorted(set(value)):
        raise Wrong(name, f"is {shown(value)}: its channels must ascend")
    return tuple(value)


def _dumped(value: object) -> str:
    try:
        return json.dumps(value)
    except (ValueError, TypeError, RecursionError):
        return type(value).__name__
