"""The list form of a DETR's widths.

`[[[attn, ffn] per encoder layer], [[self, cross, ffn] per decoder layer]]`; then `[[inner width or widths] per backbone
block]` where the backbone is not dense; then `{site: width}` of everything else that is not full. A layer that is gone
has zeros alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greedyprune.errors import UserError
from greedyprune.ranges import shown

SHAPE = "[[[attn, ffn] per encoder layer], [[self, cross, ffn] per decoder layer]]"
BACKBONE_SHAPE = "a third part, [[inner width or widths] per backbone block], only where the backbone is pruned"
OTHERS_SHAPE = "last an object {site: width} of other sites that are not full"


@dataclass(frozen=True)
class Place:
    """A site as a list of widths knows it.

    Attributes:
        name: of the site.
        label: what messages call it: `encoder layer 0: attn`.
        kind: what its number is called in its row.
        full: the dense value, which is the largest.
        grain: its values are multiples of this,
        grain_words: which is so many of these.
    """

    name: str
    label: str
    kind: str
    full: int
    grain: int = 1
    grain_words: str = ""


@dataclass(frozen=True)
class Row:
    """A layer or block: a row of numbers in a list of widths.

    Attributes:
        label: what messages call it: `encoder layer 0`.
        places: its numbers.
        whole: name of the site that is the layer itself, of width 1 or 0; empty: it cannot leave.
        own: further sites, without a number in the row, that leave with it.
    """

    label: str
    places: tuple[Place, ...]
    whole: str = ""
    own: tuple[str, ...] = ()

    @property
    def kinds(self) -> str:
        return ", ".join(place.kind for place in self.places)

    def numbers(self, widths: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(widths[place.name] for place in self.places)


@dataclass(frozen=True)
class Part:
    """A part of a list of widths: a row for each layer or block.

    Attributes:
        name: `encoder`, `decoder` or `backbone`.
        unit: what a row is of: `layer` or `block`.
        rows: front to back.
        least: rows that must stay.
    """

    name: str
    unit: str
    rows: tuple[Row, ...]
    least: int = 0

    def numbers(self, widths: Mapping[str, int]) -> tuple[tuple[int, ...], ...]:
        """The numbers of every row, of the widths of all sites."""
        return tuple(row.numbers(widths) for row in self.rows)

    def layers(self, widths: Mapping[str, int]) -> list[tuple[int, ...] | None]:
        """The numbers of every row; None: the layer is gone."""
        return [row.numbers(widths) if widths[row.whole] else None for row in self.rows]


@dataclass(frozen=True)
class DetrLayout:
    """The list form for one shape of DETR: what its sites are, and which widths they can have.

    Attributes:
        dense: site name -> dense width, in the order in which an image meets them.
        encoder: the first part.
        decoder: the second part.
        backbone: the third part, left out where it is dense.
        others: sites without a number in a row.
    """

    dense: Mapping[str, int]
    encoder: Part
    decoder: Part
    backbone: Part
    others: tuple[Place, ...]

    def parse(self, value: "str | Sequence[Any] | Mapping[str, Any]", source: str = "--cfgs") -> dict[str, int]:
        """Read widths from text, nested lists or an object. Text is read as JSON, never evaluated.

        Args:
            value: lists, lists with a trailing object, `{site: width}`, the text of any of these, or the words of a
                text that the shell took apart.
            source: what messages call it: the flag or the file that it was given with.

        Returns:
            The width of every site, in the order of `dense`.

        Raises:
            UserError: it is of another shape or does not fit the model: what was found, where, and what is expected.
        """
        if isinstance(value, (list, tuple)) and value and all(isinstance(word, str) for word in value):
            value = " ".join(value)
        if isinstance(value, str):
            value = _read_json(value, source)
        if isinstance(value, Mapping):
            return self.check(value, source)
        *parts, last = value if isinstance(value, (list, tuple)) and value else [None]
        named: Mapping[str, Any] = last if isinstance(last, Mapping) else {}
        parts = parts if isinstance(last, Mapping) else [*parts, last]
        if parts == [None] or len(parts) not in (2, 3):
            found = f"{len(parts)} parts" if isinstance(value, (list, tuple)) and value else _text(value)
            raise UserError(
                f"{source} has {found} where it needs 2 (encoder, decoder): {SHAPE}; {BACKBONE_SHAPE}; {OTHERS_SHAPE}"
            )
        listed: dict[str, int] = {}
        for part, rows in zip((self.encoder, self.decoder, self.backbone), parts, strict=False):
            listed |= _part_widths(part, rows, source)
        for name in sorted(named.keys() & listed.keys()):
            if named[name] != listed[name]:
                raise UserError(
                    f"{source} says twice what {name} is: {listed[name]} in the lists, {shown(named[name])} in the "
                    "object; leave it out of the object"
                )
        return self.check({**listed, **named}, source)

    def check(self, widths: Mapping[str, Any], source: str = "cfgs") -> dict[str, int]:
        """Widths of all sites, from those of some.

        A layer of width 0, or whose numbers are all 0, is gone, and with it all that is its own.

        Args:
            widths: site name -> width; a site that is not named is dense.
            source: what messages call them.

        Returns:
            The width of every site, in the order of `dense`.

        Raises:
            UserError: a name is no site's, or a width does not fit: both numbers that do not agree.
        """
        for name in widths:
            if name not in self.dense:
                raise UserError(f"{source} names site {shown(name)}, which the model lacks; {self._known()}")
        full = {**self.dense, **widths}
        gone: set[str] = set()
        for part in (self.encoder, self.decoder, self.backbone):
            left = [row for row in part.rows if not _is_gone(row, widths, source)]
            gone.update(name for row in part.rows if row not in left for name in _sites(row))
            if len(left) < part.least:
                raise UserError(f"{source} leaves no {part.name} {part.unit}; at least {part.least} must stay")
        for place in self._places():
            if place.name not in gone:
                _check_width(place, full[place.name], source)
        return {name: 0 if name in gone else full[name] for name in self.dense}

    def to_list(self, widths: Mapping[str, int]) -> list[Any]:
        """The list of the widths of all sites: the two published parts, and whatever of the others is not full."""
        parts: list[Any] = [[*map(list, part.numbers(widths))] for part in (self.encoder, self.decoder)]
        if any(widths[place.name] != place.full for place in _places(self.backbone)):
            parts.append([*map(list, self.backbone.numbers(widths))])
        rows = (*self.encoder.rows, *self.decoder.rows)
        gone = {name for row in rows if row.whole and not widths[row.whole] for name in row.own}
        others = {
            place.name: widths[place.name]
            for place in self.others
            if place.name not in gone and widths[place.name] != place.full
        }
        return [*parts, others] if others else parts

    def to_text(self, widths: Mapping[str, int]) -> str:
        """The list as text, as `parse` reads it."""
        return json.dumps(self.to_list(widths))

    def label(self, site: str) -> str:
        """What messages call a site: `encoder layer 0: attn`, `backbone block 3: conv1`, `queries`."""
        for part in (self.encoder, self.decoder, self.backbone):
            for row in part.rows:
                if site == row.whole:
                    return row.label
        return next(place.label for place in self._places() if place.name == site)

    def _places(self) -> list[Place]:
        """All sites but whole layers."""
        return [*_places(self.encoder), *_places(self.decoder), *_places(self.backbone), *self.others]

    def _known(self) -> str:
        names = [place.name for place in self.others]
        return f"its sites are those of the lists, as encoder.0 and encoder.0.attn, and {', '.join(names)}"


def _read_json(text: str, source: str) -> Any:
    text = text.strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError alone: a number of thousands of digits
        where = getattr(error, "pos", 0)
        raise UserError(
            f"{source} is not a list: reading stops at character {where + 1}, near {text[where : where + 20]!r}; "
            f"expected {SHAPE}"
        ) from None


def _part_widths(part: Part, value: Any, source: str) -> dict[str, int]:
    """The widths in a part, and 0 of the layers that have zeros alone."""
    if not isinstance(value, (list, tuple)) or not value:
        shape = BACKBONE_SHAPE if part.name == "backbone" else SHAPE
        raise UserError(
            f"{source}: the {part.name} part is {_text(value)}, expected a list with one entry per {part.unit}: {shape}"
        )
    if len(value) != len(part.rows):
        raise UserError(f"{source} has {len(value)} {part.name} {part.unit}s, the model has {len(part.rows)}")
    found: dict[str, int] = {}
    for row, numbers in zip(part.rows, value, strict=True):
        place = f"{source}: {row.label}"
        if not isinstance(numbers, (list, tuple)):
            raise UserError(f"{place} is {_text(numbers)}, expected [{row.kinds}]")
        if len(numbers) != len(row.places):
            count = len(row.places)
            raise UserError(f"{place} has {len(numbers)} numbers ({_text(numbers)}), expected {count}: {row.kinds}")
        found |= {each.name: width for each, width in zip(row.places, numbers, strict=True)}
        if row.whole:
            found[row.whole] = int(any(_is_other_than_zero(width) for width in numbers))
    return found


def _is_other_than_zero(width: Any) -> bool:
    return isinstance(width, bool) or width != 0


def _is_gone(row: Row, widths: Mapping[str, Any], source: str) -> bool:
    """Whether a layer leaves, by its own width or by its numbers, which then are all 0."""
    if not row.whole:
        return False
    whole = widths.get(row.whole)
    if whole is not None and (isinstance(whole, bool) or whole not in (0, 1)):
        raise UserError(f"{source}: {row.label} ({row.whole}) is {shown(whole)}, expected 1, or 0 where it is gone")
    numbers = [widths.get(place.name) for place in row.places]
    return whole == 0 or (whole is None and all(number == 0 and number is not False for number in numbers))


def _sites(row: Row) -> list[str]:
    """Every site of a row."""
    return [row.whole, *(place.name for place in row.places), *row.own]


def _places(part: Part) -> list[Place]:
    return [place for row in part.rows for place in row.places]


def _check_width(place: Place, width: Any, source: str) -> None:
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        whole = "; a layer that is gone has zeros alone" if width == 0 and place.kind else ""
        raise UserError(f"{source}: {place.label} is {shown(width)}, it must be a whole number of at least 1{whole}")
    if width % place.grain:
        raise UserError(f"{source}: {place.label} width {width} is not a multiple of the {place.grain_words}")
    if width > place.full:
        raise UserError(f"{source}: {place.label} width {width} is wider than the dense model's {place.full}")


def _text(value: Any) -> str:
    """A value for a message: a short list of numbers whole."""
    listed = isinstance(value, (list, tuple)) and len(value) <= 8
    return f"[{', '.join(map(shown, value))}]" if listed else shown(value)
