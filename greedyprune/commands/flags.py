"""A dataclass of options as command-line flags: names, types, ranges, defaults and help are the dataclass's own."""

import argparse
import re
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from greedyprune.ranges import ranges_of
from greedyprune.text import file_path, plain_text

_METAVARS = {int: "N", float: "X", str: "NAME", Path: "PATH"}
_PARSERS: dict[type, Callable[[str], object]] = {int: int, float: float, str: plain_text, Path: file_path}
Options = TypeVar("Options")


def add_flags(
    group: Any,
    options: type[Any],
    leave_out: Collection[str] = (),
    *,
    only: Collection[str] | None = None,
    unset: bool = False,
    defaults: Mapping[str, str] | None = None,
    pattern: str = "{}",
) -> None:
    """Add a flag for every field; the fields of a dataclass inside it have flags of their own.

    A field's metadata may say more: `flag`, its flag's name, or of a dataclass the pattern of its fields' names, with
    `{}` in the place of the field's; and `choices`.

    Args:
        group: an argparse parser or group.
        options: a dataclass whose docstring, or that of the class it derives from, has an `Attributes:` section.
        leave_out: fields that get no flag.
        only: the fields that get one; None: all.
        unset: a flag that is not given is None, so that one can tell; without it booleans must be False by default.
        defaults: what the help says of defaults, where that is not the dataclass's own; only with `unset`.
        pattern: of the flags' names.
    """
    help_of = _attributes(options)
    types, ranges = typing.get_type_hints(options), ranges_of(options)
    for field in fields(options):
        if field.name in leave_out or (only is not None and field.name not in only):
            continue
        default = None if unset or field.default is MISSING else field.default
        kind = _kind(types[field.name])
        if is_dataclass(kind):
            told = {each.name: str(getattr(field.default, each.name)) for each in fields(kind)}
            nested: Any = kind
            add_flags(group, nested, unset=unset, defaults=told, pattern=field.metadata["flag"])
            continue
        flag, text = f"--{flag_of(field, pattern)}", _shown(help_of.get(field.name, ""))
        if unset and field.default not in (None, ()) and "default:" not in text:
            text += f" (default: {(defaults or {}).get(field.name, field.default)})"
        if kind is bool:
            action = argparse.BooleanOptionalAction if unset and field.default else "store_true"
            group.add_argument(flag, action=action, default=default, help=text)
        elif choices := field.metadata.get("choices"):
            group.add_argument(flag, choices=choices, default=default, help=text)
        elif kind is tuple:
            group.add_argument(flag, nargs="+", type=plain_text, default=default, metavar="NAME", help=text)
        else:
            parse = ranges[field.name].parse if field.name in ranges else _PARSERS[kind]
            group.add_argument(flag, type=parse, default=default, metavar=_METAVARS[kind], help=text)


def from_flags(options: type[Options], args: argparse.Namespace, pattern: str = "{}", **given: Any) -> Options:
    """The dataclass that parsed flags say; its own checks apply.

    Args:
        options: the dataclass.
        args: a field without a flag there, or whose flag is None, has its default.
        pattern: of the flags' names.
        given: values of fields that are not flags'.
    """
    types, values = typing.get_type_hints(options), dict(given)
    for field in fields(options):  # type: ignore[arg-type]
        kind = _kind(types[field.name])
        if field.name in given:
            continue
        if is_dataclass(kind):
            whole = field.default
            inner = from_flags_over(whole, args, field.metadata["flag"])
            values[field.name] = inner
            continue
        value = getattr(args, flag_of(field, pattern), None)
        if value is not None:
            values[field.name] = tuple(value) if kind is tuple else value
    return options(**values)


def from_flags_over(base: Options, args: argparse.Namespace, pattern: str) -> Options:
    """A dataclass with the values of the flags that were given."""
    found = {each.name: getattr(args, flag_of(each, pattern), None) for each in fields(base)}  # type: ignore[arg-type]
    return replace(base, **{name: value for name, value in found.items() if value is not None})  # type: ignore[type-var]


def flag_of(field: "Field[Any]", pattern: str = "{}") -> str:
    """The name of a field's flag."""
    return field.metadata.get("flag") or pattern.format(field.name)


def _kind(hint: Any) -> Any:
    """The type of a field, without None."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return tuple if typing.get_origin(hint) is tuple else (kinds or [hint])[0]


def _attributes(options: type[Any]) -> dict[str, str]:
    """The `Attributes:` of a class's docstring and of those it derives from: name -> one line of text."""
    found: dict[str, str] = {}
    for each in reversed(options.__mro__):
        _, _, section = (each.__doc__ or "").partition("Attributes:\n")
        entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", section, re.MULTILINE)
        found |= {name: " ".join(text.split()).rstrip(".") for name, text in entries}
    return found


def _shown(text: str) -> str:
    """A docstring's line as help: what None stands for is the flag's default there."""
    return text.replace("%", "%%").replace("`", "").replace("; None: ", "; default: ")
