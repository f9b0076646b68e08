"""Objects of JSON that files hold, read entry by entry."""

from typing import Any

from greedyprune.errors import UserError
from greedyprune.ranges import Range


class Entries:
    """The entries of an object of JSON, each checked as it is taken out.

    Args:
        value: what should be an object.
        place: begins messages: where it was read.

    Raises:
        UserError: it is no object; and from every method: the entry is missing or is not what is asked for.
    """

    def __init__(self, value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise UserError(f"{place} is {type(value).__name__}, not an object")
        self.value, self.place = value, place

    def entry(self, name: str, kind: type[Any]) -> Any:
        """The entry of a name, of a type."""
        if name not in self.value:
            raise UserError(f"{self.place}: {name!r} is missing")
        if not isinstance(self.value[name], kind):
            raise UserError(f"{self.place}: {name!r} is {type(self.value[name]).__name__}, not {kind.__name__}")
        return self.value[name]

    def number(self, name: str, allowed: Range) -> float:
        """A number of a range."""
        value = self.entry(name, object)
        allowed.check(value, f"{self.place}: {name!r}")
        return float(value)

    def whole(self, name: str, allowed: Range) -> int:
        """A whole number of a range."""
        value = self.entry(name, object)
        allowed.check(value, f"{self.place}: {name!r}")
        return int(value)

    def numbers(self, allowed: Range) -> dict[str, float]:
        """All entries, which are numbers of a range."""
        return {name: self.number(name, allowed) for name in self.value}

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        found = self.entry(name, list)
        for each in found:
            if not isinstance(each, str):
                raise UserError(f"{self.place}: {name!r} holds {type(each).__name__}, not str")
        return found
