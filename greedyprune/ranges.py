"""Ranges of numbers that users and files give. A dataclass states them in its fields' types."""

import math
import sys
import typing
from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from greedyprune.errors import UserError

_INT64 = 2**63 - 1  # largest whole number of PyTorch, NumPy and SQLite
_LARGEST_FLOAT = sys.float_info.max


@dataclass(frozen=True)
class Range:
    """The numbers that are allowed in one place.

    Attributes:
        kind: int or float; a float range takes whole numbers, too, and neither takes nan or infinity.
        low: the smallest.
        high: the largest.
        below: `high` itself is not allowed.
        above: `low` itself is not allowed.
    """

    kind: type[int] | type[float]
    low: float
    high: float = math.inf
    below: bool = False
    above: bool = False

    def holds(self, value: object) -> bool:
        """Whether a value is a number of this range."""
        if isinstance(value, bool) or not isinstance(value, (int, self.kind)):
            return False
        # Comparisons of int with float are exact; 10**400 is infinite for a float only.
        if self.kind is float and not abs(value) <= _LARGEST_FLOAT:
            return False
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def parse(self, text: str) -> float:
        """An argparse type: a number of this range.

        Raises:
            ArgumentTypeError: the text is no such number.
        """
        try:
            value: float = self.kind(text)
        except ValueError:
            value = math.nan
        if not self.holds(value):
            raise ArgumentTypeError(f"{_shortened(text)!r} is not {self}")
        return value

    def check(self, value: object, what: str) -> None:
        """Refuse a value outside the range.

        Args:
            value: from a user or a file.
            what: begins the message: where the value stands, or the flag that gives it.

        Raises:
            UserError: the value is no number of this range.
        """
        if not self.holds(value):
            raise UserError(f"{what} is {_shortened(repr(value))}, it must be {self}")

    def __str__(self) -> str:
        noun = "a whole number" if self.kind is int else "a number"
        if self.low == -math.inf:
            return noun
        least = f"{noun} {'above' if self.above else 'of at least'} {self.low}"
        if self.high == math.inf:
            return least
        most = "below 2^63" if self.high == _INT64 else f"{'below' if self.below else 'at most'} {self.high}"
        return f"{least} and {most}"


COUNT = Range(int, 1, _INT64)
COUNT_OR_NONE = Range(int, 0, _INT64)
SEED = Range(int, 0, _INT64)
PIXELS = Range(int, 8, 65_535)
SHARE = Range(float, 0, 1)
SHARE_BELOW_ONE = Range(float, 0, 1, below=True)
POSITIVE_SHARE = Range(float, 0, 1, above=True)
AMOUNT = Range(float, 0)
POSITIVE = Range(float, 0, above=True)
FINITE = Range(float, -math.inf)

Count = Annotated[int, COUNT]
CountOrNone = Annotated[int, COUNT_OR_NONE]
Seed = Annotated[int, SEED]
Pixels = Annotated[int, PIXELS]
Share = Annotated[float, SHARE]
ShareBelowOne = Annotated[float, SHARE_BELOW_ONE]
PositiveShare = Annotated[float, POSITIVE_SHARE]
Amount = Annotated[float, AMOUNT]
Positive = Annotated[float, POSITIVE]
Finite = Annotated[float, FINITE]


def ranges_of(options: type[Any]) -> dict[str, Range]:
    """The range of every field of a dataclass whose type states one; `Count | None` states one, too."""
    found = {}
    for name, hint in typing.get_type_hints(options, include_extras=True).items():
        for part in (hint, *typing.get_args(hint)):
            for fact in getattr(part, "__metadata__", ()):
                if isinstance(fact, Range):
                    found[name] = fact
    return found


def check_ranges(options: Any, named: Callable[[str], str]) -> None:
    """Hold every field of a dataclass against the range that its type states; None is left to the field's type.

    Args:
        options: the dataclass.
        named: from a field's name to how the message calls it.

    Raises:
        UserError: the first field that is out of its range.
    """
    for name, allowed in ranges_of(type(options)).items():
        value = getattr(options, name)
        if value is not None:
            allowed.check(value, named(name))


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:36]}..."
