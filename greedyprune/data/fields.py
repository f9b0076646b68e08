"""What the fields of a COCO annotation file may hold, and what is meant where they are left out (docs/DATA.md)."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greedyprune.errors import UserError
from greedyprune.ranges import AMOUNT, COUNT, FINITE, Range, shortened

TRUNCATED = Range(float, -1, 1)  # share outside of the image; -1: not known
OCCLUDED = Range(int, -1, 3)  # 0 visible, 1 partly, 2 largely hidden, 3 or -1: not known
_INT64 = Range(int, -(2**63), 2**63 - 1)
_ANY_WHOLE = Range(int, -math.inf)
_PIXELS = Range(float, -(2.0**31), 2.0**31)  # no image has more, and areas stay far from infinity
_EXACT = 2.0**53  # below it a float that is whole is one whole number and no other
_LONGEST_NAME = 4096  # bytes, Linux's PATH_MAX


@dataclass(frozen=True)
class Field:
    """One field of an entry.

    Attributes:
        read: from a JSON value to what it means; None where it means nothing. It is never given null.
        expected: what `read` takes, for the message.
        needed: the field cannot be left out, and null is wrong.
    """

    read: Callable[[Any], Any]
    expected: str
    needed: bool = True

    def holds(self, value: Any) -> bool:
        """Whether a value means something here."""
        return value is not None and self.read(value) is not None


def _whole(allowed: Range) -> Callable[[Any], Any]:
    """5.0 is 5: JSON has one kind of number, and some writers put the point."""

    def read(value: Any) -> Any:
        if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
            value = int(value)
        return value if allowed.holds(value) else None

    return read


def _box(value: Any) -> Any:
    """[x, y, width, height]."""
    if not isinstance(value, list) or len(value) != 4 or not all(map(_PIXELS.holds, value)):
        return None
    return value if value[2] >= 0 and value[3] >= 0 else None


def _crowd(value: Any) -> Any:
    """0 or 1; some writers say false and true."""
    return int(value) if isinstance(value, (int, float)) and value in (0, 1) else None


def _degree(allowed: Range) -> Callable[[Any], Any]:
    """A number that some writers give as false or true."""
    return lambda value: int(value) if isinstance(value, bool) else value if allowed.holds(value) else None


def _numbers(count: int) -> Callable[[Any], Any]:
    """A list of so many finite numbers."""
    return lambda value: (
        value if isinstance(value, list) and len(value) == count and all(map(FINITE.holds, value)) else None
    )


def _file_name(value: Any) -> Any:
    """A path that stays in the folder of the images, as far as its text tells."""
    if not isinstance(value, str) or "\0" in value or os.path.isabs(value):
        return None
    inside = os.path.normpath(value)
    if not value or inside == "." or inside.split(os.sep)[0] == "..":
        return None
    try:
        return value if len(os.fsencode(value)) <= _LONGEST_NAME else None
    except UnicodeEncodeError:
        return None


def _is(*kinds: type) -> Callable[[Any], Any]:
    return lambda value: value if isinstance(value, kinds) else None


_ID = Field(_whole(_INT64), "a whole number of 64 bits")
_SIDE = Field(_whole(COUNT), str(COUNT))
IMAGE = {
    "id": _ID,
    "file_name": Field(_file_name, "the name of a file inside the folder of the images"),
    "height": _SIDE,
    "width": _SIDE,
}
CATEGORY = {
    "id": _ID,
    "name": Field(_is(str), "text"),
    "supercategory": Field(_is(str), "text", needed=False),
}
ANNOTATION = {
    "id": Field(_whole(_ANY_WHOLE), "a whole number"),
    "image_id": _ID,
    "category_id": _ID,
    "bbox": Field(_box, "four finite numbers [x, y, width, height] of pixels with no negative width or height"),
    "area": Field(lambda value: value if AMOUNT.holds(value) else None, str(AMOUNT), needed=False),
    "iscrowd": Field(_crowd, "0 or 1", needed=False),
    "segmentation": Field(_is(list, dict), "polygons or a run-length code", needed=False),
    # Of Pascal VOC and KITTI; docs/DATA.md says who reads them.
    "difficult": Field(_crowd, "0 or 1", needed=False),
    "truncated": Field(_degree(TRUNCATED), str(TRUNCATED), needed=False),
    "occluded": Field(_degree(OCCLUDED), str(OCCLUDED), needed=False),
    "height": Field(lambda value: value if AMOUNT.holds(value) else None, str(AMOUNT), needed=False),
    "type": Field(_is(str), "text", needed=False),
    "pose": Field(_is(str), "text", needed=False),
    "alpha": Field(lambda value: value if FINITE.holds(value) else None, str(FINITE), needed=False),
    "dimensions": Field(_numbers(3), "three finite numbers", needed=False),
    "location": Field(_numbers(3), "three finite numbers", needed=False),
    "rotation_y": Field(lambda value: value if FINITE.holds(value) else None, str(FINITE), needed=False),
}
FILE = {
    "images": Field(_is(list), "a list"),
    "annotations": Field(_is(list), "a list"),
    "categories": Field(_is(list), "a list"),
    "info": Field(_is(dict, list), "an object", needed=False),
    "licenses": Field(_is(list), "a list", needed=False),
}


def read_entries(path: Path, kind: str, entries: list[Any], fields: Mapping[str, Field]) -> set[int]:
    """Check a list of the file; in its entries every value becomes what it means, and null is left out.

    Args:
        path: the file, for the message.
        kind: image, category or annotation.
        entries: the list.
        fields: of an entry, `id` first.

    Returns:
        The ids.

    Raises:
        UserError: names the entry by its id, or by its place where it has none, the field and the value.
    """
    ids: set[int] = set()
    for place, entry in enumerate(entries, start=1):
        name = f"{kind} number {place} of the file"
        if not isinstance(entry, dict):
            raise UserError(f"{path}: {name} is {shortened(repr(entry))}, not an object; correct or remove it")
        if wrong := read_fields(entry, fields):
            if fields["id"].holds(entry.get("id")):
                name = f"{kind} {entry['id']}"
            raise UserError(f"{path}: {name} {wrong}; correct or remove it")
        if entry["id"] in ids:
            raise UserError(f"{path}: there are two of {kind} id {entry['id']}; correct or remove one")
        ids.add(entry["id"])
    return ids


def read_fields(entry: dict[str, Any], fields: Mapping[str, Field]) -> str:
    """Give an entry's fields the values that they mean.

    Returns:
        What is wrong with the first one that means nothing; empty where there is none.
    """
    for key, field in fields.items():
        if (value := entry.get(key)) is None and not field.needed:
            entry.pop(key, None)
        elif key not in entry:
            return f"has no {key!r}"
        elif value is None or (meant := field.read(value)) is None:
            return f"has {key} {shortened(repr(value))}, not {field.expected}"
        else:
            entry[key] = meant
    return ""
