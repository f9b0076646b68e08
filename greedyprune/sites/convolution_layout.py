"""The list form of a convolutional detector: the output channels of every convolution."""

from collections.abc import Iterable, Mapping
from typing import Any

from greedyprune.errors import UserError
from greedyprune.ranges import Range, shown
from greedyprune.sites.layout import FlatLayout, from_json
from greedyprune.sites.site import HiddenSite, Slice, Widths

SHAPE = "[width per convolution]"
OTHERS_SHAPE = "last an object {site: width} of those that no convolution has for itself"


class ConvolutionLayout:
    """`[width per convolution]`, front to back, with those that stay dense.

    Where a site's channels are a part of every convolution that writes them, its width is not to be read off, and
    stands in an object at the end.

    Args:
        convolutions: the name of every convolution's weight, and its output channels in the dense detector.
        sites: of the dense detector.
    """

    def __init__(self, convolutions: Mapping[str, int], sites: Iterable[HiddenSite]) -> None:
        self.convolutions, self.sites = convolutions, {site.name: site for site in sites}
        self._flat = FlatLayout(self.sites.values())
        # By convolution the sites in its output channels, and how many channels of it each unit has.
        self._written: dict[str, dict[str, int]] = {name: {} for name in convolutions}
        for site in self.sites.values():
            for part in site.slices:
                if part.name in convolutions and part.dim == 0:
                    self._written[part.name][site.name] = self._channels(site, part)

    def parse(self, value: Any, source: str = "--cfgs") -> dict[str, int]:
        """See `Layout.parse`."""
        if isinstance(value, (list, tuple)) and value and all(isinstance(word, str) for word in value):
            value = " ".join(value)
        if isinstance(value, str):
            value = from_json(value, source, SHAPE)
        if isinstance(value, Mapping):
            return self._flat.parse(value, source)
        if not isinstance(value, (list, tuple)) or not value:
            raise UserError(f"{source} is {shown(value)}, expected {SHAPE}")
        named = value[-1] if isinstance(value[-1], Mapping) else {}
        numbers = value[:-1] if isinstance(value[-1], Mapping) else value
        if len(numbers) != len(self.convolutions):
            raise UserError(
                f"{source} has {len(numbers)} widths, the detector has {len(self.convolutions)} convolutions: {SHAPE}; "
                f"{OTHERS_SHAPE}"
            )
        widths = self._flat.parse({**self._read(numbers, source), **named}, source)
        for number, (found, own) in enumerate(zip(numbers, self._list(widths), strict=True), start=1):
            if found != own:
                raise UserError(
                    f"{source}: convolution {number} is {shown(found)}, and what is added to it or read with it makes "
                    f"it {own}"
                )
        return widths

    def to_list(self, widths: Widths) -> list[Any]:
        """See `Layout.to_list`."""
        numbers = self._list(widths)
        read = self._read(numbers, "the list")
        hidden = {n: width for n, width in widths.items() if n not in read and width != self.sites[n].full}
        return [*numbers, hidden] if hidden else [*numbers]

    def _read(self, numbers: Iterable[Any], source: str) -> dict[str, int]:
        """The widths of the sites that have a convolution for themselves."""
        widths: dict[str, int] = {}
        for number, (name, found) in enumerate(zip(self.convolutions, numbers, strict=True), start=1):
            dense, written = self.convolutions[name], self._written[name]
            label = f"{source}: convolution {number}"
            Range(int, 1, dense).check(found, label)
            if not written and found != dense:
                raise UserError(f"{label} is {found}; its channels cannot be pruned, it has {dense}")
            for site, each in written.items():
                if each * (self.sites[site].full // self.sites[site].unit) != dense:
                    continue  # it has a part of this one only
                if found % each:
                    raise UserError(f"{label} is {found}, and {each} of its channels stay together")
                widths.setdefault(site, found // each * self.sites[site].unit)
        return widths

    def _list(self, widths: Widths) -> list[int]:
        """The output channels of every convolution."""
        return [
            dense
            - sum(
                each * ((self.sites[site].full - widths[site]) // self.sites[site].unit)
                for site, each in self._written[name].items()
            )
            for name, dense in self.convolutions.items()
        ]

    def _channels(self, site: HiddenSite, part: Slice) -> int:
        """How many channels of a convolution a unit of a site has."""
        return len(part.places[0]) if part.places else self.convolutions[part.name] * site.unit // site.full
