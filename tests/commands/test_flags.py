"""The flags of every tool: each number has a range, and what no number, path or name can be is told by the flag."""

import importlib
import re
from argparse import ArgumentParser
from functools import cache
from pathlib import Path

import pytest

from greedyprune import UserError
from greedyprune.cli import Parser, file_path, plain_text
from greedyprune.commands.train import _MODEL_FLAGS
from greedyprune.embedded import checkpoint_path
from greedyprune.ranges import Range

TOOLS = sorted(
    {
        command
        for path in (Path(__file__).parents[2] / "tools").glob("*.py")
        for command in re.findall(r'run_command\("(\w+)"', path.read_text())
    }
)


class Captured(Exception):
    pass


@cache
def parser_of(name: str) -> ArgumentParser:
    """A tool's parser, taken where it would read its command line."""
    found: list[ArgumentParser] = []
    patch = pytest.MonkeyPatch()

    def take(self, args=None, namespace=None):
        found.append(self)
        raise Captured

    patch.setattr(Parser, "parse_known_args", take)
    try:
        with pytest.raises(Captured):
            importlib.import_module(f"greedyprune.commands.{name}").main([])
    finally:
        patch.undo()
    return found[0]


def flags(kind):
    """(tool, flag) of a kind of type."""
    for name in TOOLS:
        for action in parser_of(name)._actions:
            if kind(action.type) and action.dest not in _MODEL_FLAGS:
                yield name, action.option_strings[-1] if action.option_strings else ""


def refusal(name, *words):
    parser = parser_of(name)
    places = [action for action in parser._actions if not action.option_strings]
    given = "given" if words[0] else words[1]
    needed = [next(iter(action.choices)) if action.choices else given for action in places]
    with pytest.raises(UserError) as refused:
        parser.parse_args([*(words if words[0] else ()), *needed])
    return str(refused.value)


def is_number(kind):
    return isinstance(getattr(kind, "__self__", None), Range)


def is_text(kind):
    return kind in (checkpoint_path, file_path, plain_text)


@pytest.mark.parametrize("name", TOOLS)
def test_every_flag_with_a_value_has_a_type_that_refuses(name):
    for action in parser_of(name)._actions:
        takes = action.nargs != 0 and action.dest not in ("cfgs", "widths", *_MODEL_FLAGS)
        assert not takes or action.choices or is_number(action.type) or is_text(action.type), action.dest


@pytest.mark.parametrize(("name", "flag"), flags(is_number))
def test_no_number_is_told_by_its_own_flag(name, flag):
    for value in ("nan", "inf", "-1", "x", "", "1e999"):
        assert refusal(name, f"{flag}={value}").startswith(f"argument {flag}: {value!r} is not a ")


@pytest.mark.parametrize(("name", "flag"), flags(is_text))
def test_what_is_no_text_is_told_by_its_own_flag(name, flag):
    for value, what in (("", "is empty"), (" ", "is empty"), ("a\0b", "null character"), ("\udce9", "no UTF-8")):
        words = (f"{flag}={value}",) if flag else ("", value)
        told = refusal(name, *words)
        assert what in told
        assert "\0" not in told
        assert not flag or f"argument {flag}: " in told or f"/{flag}: " in told
