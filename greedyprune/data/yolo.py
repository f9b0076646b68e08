"""YOLO's layout: `data.yaml`, `images/.../NAME.jpg` and `labels/.../NAME.txt` with `class cx cy w h` in 0..1."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from greedyprune.data.conversion import (
    IMAGE_ENDINGS,
    Classes,
    Listed,
    Picture,
    Source,
    Tally,
    Thing,
    place_image,
    read_text,
)
from greedyprune.data.folders import SPLITS
from greedyprune.data.images import upright_size
from greedyprune.errors import UserError
from greedyprune.ranges import shown
from greedyprune.text import printable


def read_yolo(folder: Path, classes: Classes, tally: Tally) -> Source:
    """Read labelled images.

    Boxes are clipped to the image. Polygons become the boxes around them. An image without a label file has no objects.

    Args:
        folder: the one that has `data.yaml`, or that file.
        classes: those that are asked for; none: all, with their numbers for ids.
        tally: what cannot be used.

    Raises:
        UserError: files are missing or say what they cannot, or something is broken and nothing is skipped.
    """
    path = _description(folder)
    content = _content(path)
    names = _names(path, content)
    splits: dict[str, list[Picture]] = {}
    for split in SPLITS:
        splits[split], bare = [], 0
        for image, name in _images(path, content, split):
            labels = _labels_of(image)
            bare += not labels.exists()
            with tally.passing():
                splits[split].append(_picture(image, name, labels, names, classes, tally))
        if bare:
            tally.notes.append(f"images of {split} without a label file, and so without objects: {bare}")
    return Source(splits, classes.numbered(list(names.values()), 1 if classes.names or classes.merged else 0))


def _description(folder: Path) -> Path:
    if folder.is_file():
        return folder
    found = [folder / "data.yaml"] if (folder / "data.yaml").exists() else sorted(folder.glob("*.y*ml"))
    if len(found) != 1:
        told = "no data.yaml" if not found else f"{len(found)} files that may be its data.yaml"
        raise UserError(f"{folder} has {told}; give the file itself")
    return found[0]


def _content(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}; correct it") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {shown(content)}, not names and folders; correct it")
    return content


def _names(path: Path, content: dict[Any, Any]) -> dict[int, str]:
    """The classes by their numbers."""
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or sorted(names, key=str) != sorted(range(len(names)), key=str):
        raise UserError(f"{path}: names is {shown(names)}, not a list, or numbers from 0 with names; correct it")
    named = {number: str(names[number]) for number in range(len(names))}
    if content.get("nc", len(named)) != len(named):
        raise UserError(f"{path}: nc is {shown(content['nc'])}, and there are {len(named)} names; correct one of them")
    if len(set(named.values())) < len(named):
        raise UserError(f"{path}: names has a name twice; rename one")
    return named


def _images(path: Path, content: dict[Any, Any], split: str) -> list[tuple[Path, str]]:
    """The images of a split, and their names in a folder of the split."""
    told = content.get(split)
    places = [place for place in (told if isinstance(told, list) else [told]) if isinstance(place, str)]
    if not places or len(places) < (len(told) if isinstance(told, list) else 1):
        raise UserError(f"{path}: {split} is {shown(told)}, not a folder or a list of images; correct it")
    base = path.parent / str(content.get("path") or "")
    found: list[tuple[Path, str]] = []
    for place in places:
        where = base / place
        if not where.exists() and place.startswith("../"):
            where = base / place[3:]  # as some exports write what is beside the file
        if where.is_dir():
            images = sorted(each for each in where.rglob("*") if each.suffix.lower() in IMAGE_ENDINGS)
            found += [(each, each.relative_to(where).as_posix()) for each in images]
        elif where.is_file():
            lines = [line.strip() for line in read_text(where).splitlines() if line.strip()]
            found += [(where.parent / line, Path(line).name) for line in lines]
        else:
            raise UserError(f"{path}: {split} names {where}, which is not there; correct it")
    return found


def _labels_of(image: Path) -> Path:
    """`.../labels/NAME.txt` of `.../images/NAME.jpg`; beside the image where no folder is called so."""
    parts = list(image.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _picture(image: Path, name: str, labels: Path, names: dict[int, str], classes: Classes, tally: Tally) -> Picture:
    height, width = upright_size(image, f"image {printable(name)} ({image})")
    things = []
    lines = read_text(labels).splitlines() if labels.exists() else []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with tally.passing():
                thing = _thing(line, f"{labels} line {number}", (width, height), names)
                called = tally.wanted(classes, thing.name)
                if called is not None:
                    things.append(Thing(called, thing.box, False, thing.fields))
    return Picture(image, name, height, width, things)


def _thing(line: str, place: str, size: tuple[int, int], names: dict[int, str]) -> Thing:
    first, *words = line.split()
    if len(words) != 4 and (len(words) < 6 or len(words) % 2):
        raise UserError(f"{place} has {len(words) + 1} columns, not 5 or those of a polygon; correct or remove it")
    numbers = []
    for word in (first, *words):
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"{place}: {printable(word)} is not a number; correct or remove it")
        numbers.append(number)
    kind, *values = numbers
    if kind not in names:
        raise UserError(f"{place}: class {printable(first)} is none of the {len(names)} of data.yaml; correct one")
    if not all(0 <= value <= 1 for value in values):
        raise UserError(f"{place} has a number that is not in 0..1; correct or remove it")
    fields: dict[str, Any] = {}
    if len(values) == 4:
        x, y, w, h = values
        corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    else:
        xs, ys = values[::2], values[1::2]
        corners = [min(xs), min(ys), max(xs), max(ys)]
        polygon = [value * side for pair in zip(xs, ys, strict=True) for value, side in zip(pair, size, strict=True)]
        fields["segmentation"] = [polygon]
    left, top, right, bottom = (
        min(max(corner, 0.0), 1.0) * side for corner, side in zip(corners, (*size, *size), strict=True)
    )
    if left >= right or top >= bottom:
        raise UserError(f"{place}: its box has no area; correct or remove it")
    return Thing(names[int(kind)], (left, top, right - left, bottom - top), False, fields)


def write_yolo(folder: Path, listed: Sequence[Listed], categories: dict[int, str], placing: str, tally: Tally) -> None:
    """Write `data.yaml`, `images/SPLIT` and `labels/SPLIT`.

    Crowds are left out: there is no way to write them.

    Args:
        folder: an empty one.
        listed: the images.
        categories: id -> name; the classes are numbered in the order of ids.
        placing: how images get there.
        tally: what cannot be used.

    Raises:
        UserError: two images have one name but for their endings, or one is not there.
    """
    numbers = {category: number for number, category in enumerate(categories)}
    seen: dict[Path, Path] = {}
    crowds = 0
    for split in SPLITS:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
    for each in listed:
        name = Path(each.entry["file_name"])
        labels = (folder / "labels" / each.split / name).with_suffix(".txt")
        if labels in seen:
            raise UserError(f"{seen[labels]} and {each.path} have one name but for their endings; rename one")
        seen[labels] = each.path
        place_image(each.path, folder / "images" / each.split / name, placing)
        width, height = each.entry["width"], each.entry["height"]
        lines = []
        for annotation in each.annotations:
            if annotation["iscrowd"]:
                crowds += 1
                continue
            x, y, w, h = annotation["bbox"]
            left, right = (min(max(side / width, 0.0), 1.0) for side in (x, x + w))
            top, bottom = (min(max(side / height, 0.0), 1.0) for side in (y, y + h))
            shares = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
            lines.append(f"{numbers[annotation['category_id']]} {' '.join(f'{share:.6f}' for share in shares)}\n")
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("".join(lines))
    if crowds:
        tally.notes.append(f"crowds that are left out, for this format has none: {crowds}")
    content = {**{split: f"images/{split}" for split in SPLITS}, "names": dict(enumerate(categories.values()))}
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
