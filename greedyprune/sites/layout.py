"""List forms: ways of writing widths."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from greedyprune.errors import UserError
from greedyprune.ranges import Range, shown
from greedyprune.sites.site import Site, Widths


class Layout(Protocol):
    """A way of writing the widths of a detector."""

    def parse(self, value: Any, source: str = "--cfgs") -> dict[str, int]:
        """The width of every site, from a list, its text, or `{site: width}`.

        Args:
            value: from a user or a file.
            source: what messages call it.

        Raises:
            UserError: it is no such list, or its widths do not fit the detector.
        """
        ...

    def to_list(self, widths: Widths) -> Any:
        """The widths of all sites as JSON values, which `parse` reads."""
        ...


class FlatLayout:
    """`{site: width}` of the sites that are not full; for families without a list of their own.

    Args:
        sites: of the dense detector.
    """

    def __init__(self, sites: Iterable[Site]) -> None:
        self.sites = {site.name: site for site in sites}

    def parse(self, value: Any, source: str = "--cfgs") -> dict[str, int]:
        """See `Layout.parse`."""
        if isinstance(value, str):
            value = from_json(value, source, "{site: width}")
        if not isinstance(value, Mapping):
            raise UserError(f"{source} is {shown(value)}, expected {{site: width}}")
        for name, width in value.items():
            if name not in self.sites:
                raise UserError(f"{source} names site {shown(name)}; the sites are {', '.join(self.sites)}")
            site = self.sites[name]
            Range(int, site.least, site.full).check(width, f"{source}: {site.label}")
            if width % site.grain:
                raise UserError(f"{source}: {site.label} width {width} is not a multiple of {site.grain}")
        return {name: value.get(name, site.full) for name, site in self.sites.items()}

    def to_list(self, widths: Widths) -> dict[str, int]:
        """See `Layout.to_list`."""
        return {name: width for name, width in widths.items() if width != self.sites[name].full}


def from_json(text: str, source: str, expected: str) -> Any:
    """What a text says, which is read as data.

    Raises:
        UserError: it is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{source} is no JSON; expected {expected}") from None
