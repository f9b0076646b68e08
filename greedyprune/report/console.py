"""Consoles, and numbers and times in words."""

from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text


def open_console(file: TextIO | None = None) -> Console:
    """A console that shows text as it is: no part of a name is a style, an emoji or a number to be coloured.

    Args:
        file: where it writes; None: stdout.
    """
    return Console(file=file, markup=False, emoji=False, highlight=False)


def add_columns(table: Table, name: str, *numbers: str) -> None:
    """A column of names and columns of numbers; where a terminal is too narrow they take more lines: none is cut."""
    table.add_column(Text(name), overflow="fold")
    for each in numbers:
        table.add_column(Text(each), justify="right", overflow="fold")


def number(value: float, digits: int = 4) -> str:
    """A score; `-` for COCO's -1, which says that there was nothing to measure on."""
    return "-" if value == -1 else f"{value:.{digits}f}"


def count(value: float) -> str:
    """A large count with a unit: 1,234 as `1.23 k`, 19,667,474 as `19.67 M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:g}"


def milliseconds(value: float) -> str:
    """A time of a forward pass: `12.34 ms`."""
    return f"{value:.2f} ms"


def duration(seconds: float) -> str:
    """`0:04`, `12:30`, `3:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
