"""Darknet's `.cfg` files as sections of named values that know their lines."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from greedyprune.errors import UserError
from greedyprune.ranges import Range, shortened


@dataclass
class Section:
    """One section of a file.

    Attributes:
        name: between the brackets, in lower case.
        place: file, line and name, as messages begin.
        source: the file, for messages about single lines.
        values: key -> text and line of its value.
    """

    name: str
    place: str
    source: str
    values: dict[str, tuple[str, int]] = field(default_factory=dict)

    def refuse(self, why: str, key: str | None = None) -> NoReturn:
        """Refuse the section, or the line of one of its keys.

        Raises:
            UserError: always.
        """
        if key in self.values:
            value, line = self.values[key]
            raise UserError(f"{self.source}, line {line}, [{self.name}]: {key}={shortened(value)} {why}")
        raise UserError(f"{self.place}: {why}")

    def text(self, key: str, default: str) -> str:
        """A value as it stands."""
        return self.values[key][0] if key in self.values else default

    def whole(self, key: str, default: int | None, allowed: Range) -> int:
        """A whole number.

        Raises:
            UserError: it is none, is out of its range, or is missing and has no default.
        """
        if key not in self.values:
            if default is None:
                self.refuse(f"has no {key}")
            return default
        try:
            value = int(self.values[key][0])
        except ValueError:
            self.refuse(f"is not {allowed}", key)
        if not allowed.holds(value):
            self.refuse(f"is not {allowed}", key)
        return value

    def number(self, key: str, default: float, allowed: Range) -> float:
        """A number.

        Raises:
            UserError: it is none, or out of its range.
        """
        if key not in self.values:
            return default
        found = self._floats(key, allowed)
        if len(found) != 1:
            self.refuse(f"is not {allowed}", key)
        return found[0]

    def wholes(self, key: str) -> list[int]:
        """Whole numbers, separated by commas.

        Raises:
            UserError: there is none, or one of them is no whole number.
        """
        if key not in self.values:
            self.refuse(f"has no {key}")
        try:
            return [int(each) for each in self._parts(key)]
        except ValueError:
            self.refuse("is no list of whole numbers", key)

    def numbers(self, key: str, allowed: Range) -> list[float]:
        """Numbers, separated by commas.

        Raises:
            UserError: there is none, or one of them is out of its range.
        """
        if key not in self.values:
            self.refuse(f"has no {key}")
        return self._floats(key, allowed)

    def only(self, *known: str) -> None:
        """Refuse keys that are not known.

        Raises:
            UserError: names the first one and its line.
        """
        for key in self.values:
            if key not in known:
                self.refuse(f"is not understood here; known are {', '.join(known)}", key)

    def _parts(self, key: str) -> list[str]:
        return [part.strip() for part in self.values[key][0].split(",") if part.strip()]

    def _floats(self, key: str, allowed: Range) -> list[float]:
        try:
            found = [float(part) for part in self._parts(key)]
        except ValueError:
            self.refuse(f"is not {allowed}", key)
        if not found or not all(map(allowed.holds, found)):
            self.refuse(f"is not {allowed}", key)
        return found


def read_sections(text: str, source: str) -> list[Section]:
    """The sections of a file, in order.

    Args:
        text: `[section]`, then lines of `key=value`; `#` and `;` begin comments, blanks around `=` mean nothing.
        source: what messages call the file.

    Raises:
        UserError: names the line that is neither, or a key that a section has twice.
    """
    sections: list[Section] = []
    for number, line in _lines(text):
        if line.startswith("["):
            if not line.endswith("]"):
                raise UserError(f"{source}, line {number}: {shortened(line)!r} is no section; its bracket is open")
            name = line[1:-1].strip().lower()
            sections.append(Section(name, f"{source}, line {number}, [{shortened(name)}]", source))
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key:
            raise UserError(f"{source}, line {number}: {shortened(line)!r} is neither [section] nor key=value")
        if not sections:
            raise UserError(
                f"{source}, line {number}: {key} stands before the first [section]; a file begins with [net]"
            )
        if key in sections[-1].values:
            before = sections[-1].values[key][1]
            raise UserError(
                f"{source}, line {number}, [{sections[-1].name}]: {key} is there twice, first in line {before}"
            )
        sections[-1].values[key] = value, number
    return sections


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Number, from 1, and content of the lines that have some."""
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].partition(";")[0].strip()
        if content:
            yield number, content
