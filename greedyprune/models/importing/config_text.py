"""A configuration that is written as Python, read as data: nothing in it is run."""

import ast
from collections.abc import Iterator
from typing import Any

from greedyprune.errors import UserError

_LONGEST = 2_000_000  # characters; a parsed text takes some hundred times its size


class PythonExpression:
    """What only running the text would tell."""


def read_settings(text: str, place: str) -> dict[str, Any]:
    """The settings of a text such as `model = dict(type="ResNet", stages=(1, 2))`, the form of MMEngine.

    Args:
        text: assignments of numbers, text, lists and dictionaries.
        place: where it was read, for messages.

    Returns:
        What every name is assigned last. Tuples are lists; what is more than data is a PythonExpression.

    Raises:
        UserError: it is no Python, or too long to be a configuration.
    """
    if len(text) > _LONGEST:
        raise UserError(f"{place} has {len(text):,} characters, a configuration has at most {_LONGEST:,}")
    try:
        return {name: _value(node) for name, node in _assignments(ast.parse(text))}
    except SyntaxError as error:
        raise UserError(f"{place} is damaged: its line {error.lineno} is no Python ({error.msg})") from None
    except (ValueError, RecursionError, MemoryError):
        raise UserError(f"{place} is damaged: it cannot be read as Python") from None


def _assignments(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for statement in module.body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    yield target.id, statement.value


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List() | ast.Tuple():
            return [_value(each) for each in node.elts]
        case ast.Dict() if all(isinstance(key, ast.Constant) for key in node.keys):
            keys = (key.value for key in node.keys if isinstance(key, ast.Constant))
            return {key: _value(value) for key, value in zip(keys, node.values, strict=True)}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=words) if all(word.arg for word in words):
            return {word.arg: _value(word.value) for word in words}
    return PythonExpression()


def parts_with(settings: Any, name: str) -> Iterator[dict[str, Any]]:
    """Every dictionary, at any depth, that holds a setting of this name, front to back."""
    if isinstance(settings, dict):
        if name in settings:
            yield settings
        settings = list(settings.values())
    if isinstance(settings, list):
        for inner in settings:
            yield from parts_with(inner, name)
