"""A dataclass of options as command-line flags: names, types, ranges, defaults and help are the dataclass's own."""

import argparse
import re
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
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
    unset: bool = False,
    defaults: Mapping[str, str] | None = None,
) -> None:
    """Add a flag for every field.

    Args:
        group: an argparse parser or group.
        options: a dataclass whose docstring, or that of the class it derives from, has an `Attributes:` section, and
            whose booleans are False by default.
        leave_out: fields that get no flag.
        unset: a flag that is not given is None, so that one can tell.
        defaults: what the help says of defaults, where that is not the dataclass's own; only with `unset`.
    """
    help_of = _attributes(options)
    types, ranges = typing.get_type_hints(options), ranges_of(options)
    for field in fields(options):
        if field.name in leave_out:
            continue
        kinds = [kind for kind in typing.get_args(types[field.name]) if kind is not type(None)] or [types[field.name]]
        default = None if unset or field.default is MISSING else field.default
        text = help_of.get(field.name, "").replace("%", "%%")
        if kinds[0] is bool:
            group.add_argument(f"--{field.name}", action="store_true", default=default, help=text)
            continue
        if unset and field.default is not None:
            text += f" (default: {(defaults or {}).get(field.name, field.default)})"
        parse = ranges[field.name].parse if field.name in ranges else _PARSERS[kinds[0]]
        group.add_argument(f"--{field.name}", type=parse, default=default, metavar=_METAVARS[kinds[0]], help=text)


def from_flags(options: type[Options], args: argparse.Namespace) -> Options:
    """The dataclass that parsed flags say; its own checks apply."""
    names = [field.name for field in fields(options)]  # type: ignore[arg-type]
    return options(**{name: getattr(args, name) for name in names})


def _attributes(options: type[Any]) -> dict[str, str]:
    """The `Attributes:` of a class's docstring and of those it derives from: name -> one line of text."""
    found: dict[str, str] = {}
    for each in reversed(options.__mro__):
        _, _, section = (each.__doc__ or "").partition("Attributes:\n")
        entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", section, re.MULTILINE)
        found |= {name: " ".join(text.split()).rstrip(".") for name, text in entries}
    return found
