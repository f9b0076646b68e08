"""Pascal VOC's layout: `VOC2007/{Annotations/ID.xml, JPEGImages/ID.jpg, ImageSets/Main/SET.txt}`."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from greedyprune.data.conversion import (
    Classes,
    Listed,
    Picture,
    Source,
    Tally,
    Thing,
    find_image,
    place_image,
    read_ids,
)
from greedyprune.data.folders import SPLITS
from greedyprune.data.images import upright_size
from greedyprune.errors import UserError
from greedyprune.text import printable

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SIDES = ("xmin", "ymin", "xmax", "ymax")
FLAGS = ("truncated", "difficult", "occluded")
DEFAULT_FOLDER = "VOC2007"  # of images that come from another format
_YEAR = re.compile(r"VOC\d{4}")
_DECLARED = re.compile(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.:-]+)[\"'][^>]*\?>")
_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")


def read_voc(
    folder: Path,
    classes: Classes,
    tally: Tally,
    sets: Mapping[str, Sequence[str]] | None = None,
    encoding: str = "utf-8-sig",
) -> Source:
    """Read annotated images.

    Args:
        folder: the one that has `VOC2007` and others like it, or one of these.
        classes: those that are asked for; none: VOC's 20 where a `VOC2007` or the like has no others, else all that are
            found, sorted.
        tally: what cannot be used.
        sets: `YEAR:SET` or `SET` (of every year that has it) of the splits; None: `trainval` and `test`, or `train`
            and `val` where no year has a `test`.
        encoding: of annotation files that declare none.

    Raises:
        UserError: folders or files are missing, or something is broken and nothing is skipped.
    """
    years = _years(folder)
    if not sets:
        tested = any(_set_file(year, "test").exists() for year in years)
        sets = {"train": ["trainval" if tested else "train"], "val": ["test" if tested else "val"]}
    apart = len(years) > 1
    splits: dict[str, list[Picture]] = {}
    for split in SPLITS:
        splits[split] = []
        for year, path in (found for asked in sets[split] for found in _chosen(years, asked)):
            for name in read_ids(path, tally):
                with tally.passing():
                    splits[split].append(_picture(year, name, apart, tally, encoding))
    found = sorted({thing.name for pictures in splits.values() for each in pictures for thing in each.things})
    named = all(_YEAR.fullmatch(year.resolve().name) for year in years)
    is_vocs = named and set(found) <= set(CLASSES) and not classes.merged
    return Source(
        {split: [_selected(each, classes, tally) for each in pictures] for split, pictures in splits.items()},
        classes.numbered(CLASSES if is_vocs else found),
    )


def _selected(picture: Picture, classes: Classes, tally: Tally) -> Picture:
    things = [
        Thing(name, thing.box, thing.crowd, thing.fields)
        for thing in picture.things
        if (name := tally.wanted(classes, thing.name)) is not None
    ]
    return Picture(picture.path, picture.name, picture.height, picture.width, things)


def _years(folder: Path) -> list[Path]:
    for base in (folder, folder / "VOCdevkit"):
        years = sorted(path for path in base.glob("VOC*") if _YEAR.fullmatch(path.name) and path.is_dir())
        if years:
            return years
    if (folder / "Annotations").is_dir():
        return [folder]
    raise UserError(f"{folder} has neither VOC2007 or the like nor Annotations; give VOCdevkit or a folder in it")


def _set_file(year: Path, name: str) -> Path:
    return year / "ImageSets" / "Main" / f"{name}.txt"


def _chosen(years: Sequence[Path], asked: str) -> list[tuple[Path, Path]]:
    """The years and files of `2007:trainval`, or of `trainval` in every year that has it."""
    before, colon, name = asked.rpartition(":")
    some = [year for year in years if not colon or year.name in (before, f"VOC{before}")]
    found = [(year, path) for year in some if (path := _set_file(year, name)).exists()]
    if not found or Path(name).name != name:
        known = ", ".join(str(_set_file(year, name)) for year in some) or f"folder {printable(before)}"
        raise UserError(f"image set {printable(asked)} is not there ({known}); name others with --train and --val")
    return found


def _picture(year: Path, name: str, apart: bool, tally: Tally, encoding: str) -> Picture:
    """An image by its id, with all that is in it."""
    path = year / "Annotations" / f"{name}.xml"
    root = _parsed(path, encoding)
    image = find_image(year / "JPEGImages" / name, ".jpg")
    height, width = _size(root, path, upright_size(image, f"image {printable(name)} ({image})"))
    things = []
    for number, entry in enumerate(root.findall("object"), start=1):  # not `iter`: parts have boxes of their own
        with tally.passing():
            things.append(_thing(entry, f"{path}: object {number}"))
    return Picture(image, f"{year.name}/{image.name}" if apart else image.name, height, width, things)


def _parsed(path: Path, encoding: str) -> ElementTree.Element:
    """The root of an annotation file, in any encoding that Python knows."""
    try:
        content = path.read_bytes()
        declared = _DECLARED.match(content)
        text = content.decode(declared[1].decode() if declared else encoding)
        root = ElementTree.fromstring(_DECLARATION.sub("", text, count=1))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; restore or remove it") from None
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not XML: {error}; correct or remove it") from None
    except (UnicodeError, LookupError):
        name = declared[1].decode() if declared else encoding.removesuffix("-sig")
        raise UserError(f"{path} is not {printable(name)}; give --encoding, or correct its first line") from None
    if root.tag != "annotation":
        raise UserError(f"{path} is a {printable(root.tag)}, not an annotation; correct or remove it")
    return root


def _size(root: ElementTree.Element, path: Path, seen: tuple[int, int]) -> tuple[int, int]:
    """Height and width that the annotations are of: as the file says, where it says so, else as the image is seen."""
    told = tuple(_number(root.find("size"), side, f"{path}: size", 0.0) for side in ("height", "width"))
    if not all(told):
        return seen
    if sorted(told) != sorted(seen):
        raise UserError(
            f"{path} is of an image of {told[1]:g} x {told[0]:g}, and the image has {seen[1]} x {seen[0]} pixels; "
            "correct or remove it"
        )
    return int(told[0]), int(told[1])


def _thing(entry: ElementTree.Element, place: str) -> Thing:
    name = (entry.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{place} has no name; correct or remove it")
    place = f"{place} ({printable(name)})"
    corners = entry.find("bndbox")
    if corners is None:
        raise UserError(f"{place} has no bndbox; correct or remove it")
    left, top, right, bottom = (_number(corners, side, place) for side in SIDES)
    box = (left - 1, top - 1, right - left + 1, bottom - top + 1)  # pixels count from 1, and both ends are inside
    if box[2] <= 0 or box[3] <= 0:
        raise UserError(f"{place}: its box ends before it begins; correct or remove it")
    fields: dict[str, Any] = {}
    for flag in FLAGS:
        value = _number(entry, flag, place, 0.0)
        if value not in (0, 1):
            raise UserError(f"{place}: {flag} is {value:g}, not 0 or 1; correct or remove it")
        if flag != "occluded" or entry.find(flag) is not None:
            fields[flag] = int(value)
    if pose := (entry.findtext("pose") or "").strip():
        fields["pose"] = pose
    return Thing(name, box, False, fields)


def _number(entry: ElementTree.Element | None, name: str, place: str, default: float | None = None) -> float:
    """A number in an element; the default where it is not there, or empty."""
    text = "" if entry is None else (entry.findtext(name) or "").strip()
    if not text and default is not None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{place}: {name} is {printable(text)}, not a number; correct or remove it")
    return value


def write_voc(folder: Path, listed: Sequence[Listed], placing: str) -> None:
    """Write `VOC2007`, or the folders that the images' names begin with.

    Crowds become difficult objects.

    Args:
        folder: an empty one.
        listed: the images.
        placing: how images get there.

    Raises:
        UserError: two images have one name, or one is not there.
    """
    sets: dict[Path, list[str]] = {}
    seen: dict[Path, Path] = {}
    for each in listed:
        first, *rest = Path(each.entry["file_name"]).parts
        year = folder / (first if rest and _YEAR.fullmatch(first) else DEFAULT_FOLDER)
        target = year / "JPEGImages" / each.path.name
        if (other := seen.setdefault(target.with_suffix(""), each.path)) != each.path:
            raise UserError(f"{other} and {each.path} both would be {target.stem} in {year.name}; rename one")
        if len(target.stem.split()) != 1:
            raise UserError(f"{each.path}: a name with blanks cannot stand in an image set; rename it")
        place_image(each.path, target, placing)
        annotations = year / "Annotations"
        annotations.mkdir(exist_ok=True)
        tree = ElementTree.ElementTree(_document(each, target.name))
        ElementTree.indent(tree, "\t")
        tree.write(annotations / f"{target.stem}.xml", "utf-8")
        for name in SPLITS:
            ids = sets.setdefault(_set_file(year, name), [])
            if name == each.split:
                ids.append(target.stem)
    for path, ids in sets.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")


def _spared(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation["iscrowd"] or annotation.get("difficult", 0))


def _document(each: Listed, name: str) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = name
    size = ElementTree.SubElement(root, "size")
    for side, value in (("width", each.entry["width"]), ("height", each.entry["height"]), ("depth", 3)):
        ElementTree.SubElement(size, side).text = str(value)
    for annotation in each.annotations:
        entry = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(entry, "name").text = annotation["name"]
        ElementTree.SubElement(entry, "pose").text = annotation.get("pose", "Unspecified")
        flags = {flag: annotation.get(flag, 0) > 0 for flag in FLAGS} | {"difficult": _spared(annotation)}
        for flag, holds in flags.items():
            if flag != "occluded" or flag in annotation:
                ElementTree.SubElement(entry, flag).text = str(int(holds))
        left, top, width, height = annotation["bbox"]
        corners = ElementTree.SubElement(entry, "bndbox")
        for side, corner in zip(SIDES, (left + 1, top + 1, left + width, top + height), strict=True):
            ElementTree.SubElement(corners, side).text = f"{corner:.10g}"
    return root
