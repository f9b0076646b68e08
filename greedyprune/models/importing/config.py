"""What a library wrote of its model, as data: every value is checked when it is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from greedyprune.errors import UserError
from greedyprune.ranges import Range, shown

Value = TypeVar("Value")

# Layers, channels, queries: what is beyond is a slip, or damage.
_SIZE, _SIZE_OR_NONE = Range(int, 1, 65_536), Range(int, 0, 1_000_000)


@dataclass(frozen=True)
class Config:
    """Settings by name, or those of a part inside; every value is checked as it is read.

    Attributes:
        values: what it says.
        place: the file, and the object's name, for messages.
    """

    values: Mapping[str, Any]
    place: str

    def number(self, name: str, allowed: Range, unset: float) -> float:
        """A number, or what is meant where it is unset."""
        value = self.values.get(name)
        if value is None:
            return unset
        allowed.check(value, f"{self.place}: {name}")
        number: float = value
        return number

    def count(self, name: str, unset: int) -> int:
        """A number of layers, channels and the like."""
        return int(self.number(name, _SIZE, unset))

    def flag(self, name: str) -> bool:
        """A switch, off where it is unset."""
        return self._typed(name, bool, "true or false") or False

    def text(self, name: str, unset: str) -> str:
        value = self._typed(name, str, "a text")
        return unset if value is None else value

    def listed(self, name: str) -> list[Any]:
        """A list of numbers or text; empty where it is unset."""
        return self._typed(name, list, "a list") or []

    def part(self, name: str) -> "Config":
        """An object inside it; empty where it is unset."""
        return Config(self._typed(name, dict, "an object") or {}, f"{self.place}, {name}")

    def _typed(self, name: str, kind: type[Value], noun: str) -> Value | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, kind):
            raise UserError(f"{self.place}: {name} is {shown(value)}, expected {noun}")
        return value

    def need(self, needed: tuple[tuple[str, Any, Any], ...]) -> None:
        """Refuse settings that change the arithmetic: name, the value that is needed, what is meant where unset."""
        for name, value, unset in needed:
            found = self.values.get(name, unset)
            if found != value:
                raise UserError(f"{self.place}: {name} is {shown(found)}; only {value!r} can be imported")

    def agree(self, sizes: Mapping[str, int]) -> None:
        """Refuse a config that gives the model other sizes than its weights have, by the config's names."""
        for name, size in sizes.items():
            if self.number(name, _SIZE_OR_NONE, size) != size:
                raise UserError(f"{self.place}: {name} is {self.values[name]}, the weights have {size}")
