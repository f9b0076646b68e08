"""KITTI's object labels: `training/image_2/ID.png` and `training/label_2/ID.txt`, 15 columns an object."""

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    read_text,
)
from greedyprune.data.fields import OCCLUDED, TRUNCATED
from greedyprune.data.folders import SPLITS
from greedyprune.data.images import upright_size
from greedyprune.errors import UserError
from greedyprune.text import printable

CLASSES = ("Car", "Pedestrian", "Cyclist")
NEIGHBOURS = {"Van": "Car", "Person_sitting": "Pedestrian"}  # neither right nor wrong where these are evaluated
REGION = "DontCare"
COLUMNS = 15
LONGEST_ID = 19  # digits of the first numbers that an id of COCO's layout may not have
NUMBERS = (
    *("truncated", "occluded", "alpha", "left", "top", "right", "bottom"),
    *("height", "width", "length", "x", "y", "z", "rotation_y"),
)
UNKNOWN: Mapping[str, Any] = {"alpha": -10.0, "dimensions": [-1.0] * 3, "location": [-1000.0] * 3, "rotation_y": -10.0}


def read_kitti(
    folder: Path, classes: Classes, tally: Tally, ids: Sequence[Path] = (), val_share: float = 0.5, seed: int = 0
) -> Source:
    """Read labelled images.

    Boxes are clipped to the image. Objects of other classes are left out, but for neighbours of evaluated classes and
    regions without labels: both become crowds, of the class that they are beside and once of every class.

    Args:
        folder: the one that has `training`, or `training` itself.
        classes: those that are asked for; none: KITTI's evaluated ones.
        tally: what cannot be used.
        ids: files with the ids of training and validation images; none: a part is drawn.
        val_share: the share of validation images that are drawn.
        seed: draws them.

    Raises:
        UserError: folders or files are missing, or something is broken and nothing is skipped.
    """
    base = folder / "training" if (folder / "training").is_dir() else folder
    for needed in ("image_2", "label_2"):
        if not (base / needed).is_dir():
            raise UserError(f"{folder} has no training/{needed}; give the folder of KITTI's object detection data")
    classes = Classes(classes.names or CLASSES, classes.merged)
    if ids:
        names = [read_ids(path, tally) for path in ids]
    else:
        names = _drawn(sorted(path.stem for path in (base / "label_2").glob("*.txt")), val_share, seed)
    if not any(names):
        raise UserError(f"{base / 'label_2'} has no labels; give the folder of KITTI's object detection data")
    splits = {}
    for split, chosen in zip(SPLITS, names, strict=True):
        splits[split] = pictures = list[Picture]()
        for name in chosen:
            with tally.passing():
                pictures.append(_picture(base, name, classes, tally))
    return Source(splits, classes.numbered(()))


def _drawn(names: list[str], val_share: float, seed: int) -> list[list[str]]:
    val = set(random.Random(seed).sample(names, round(val_share * len(names))))
    return [[name for name in names if name not in val], sorted(val)]


def _picture(base: Path, name: str, classes: Classes, tally: Tally) -> Picture:
    path, labels = find_image(base / "image_2" / name, ".png"), base / "label_2" / f"{name}.txt"
    height, width = upright_size(path, f"image {printable(name)} ({path})")
    things = []
    for number, line in enumerate(read_text(labels).splitlines(), start=1):
        if line.strip():
            with tally.passing():
                things += _things(line, f"{labels} line {number}", (width, height), classes, tally)
    return Picture(
        path, path.name, height, width, things, int(name) if name.isdecimal() and len(name) < LONGEST_ID else None
    )


def _things(line: str, place: str, size: tuple[int, int], classes: Classes, tally: Tally) -> list[Thing]:
    """What a line becomes: nothing, an object, or crowds."""
    kind, *columns = line.split()
    if len(columns) + 1 != COLUMNS:
        raise UserError(f"{place} has {len(columns) + 1} columns, not {COLUMNS}; correct or remove it")
    values = {}
    for column, text in zip(NUMBERS, columns, strict=True):
        try:
            values[column] = float(text)
        except ValueError:
            values[column] = math.nan
        if not math.isfinite(values[column]):
            raise UserError(f"{place}: {column} is {printable(text)}, not a number; correct or remove it")
    occluded, truncated = values["occluded"], values["truncated"]
    if not occluded.is_integer() or not OCCLUDED.holds(int(occluded)):
        raise UserError(f"{place}: occluded is {occluded:g}, not {OCCLUDED}; correct or remove it")
    if not TRUNCATED.holds(truncated):
        raise UserError(f"{place}: truncated is {truncated:g}, not {TRUNCATED}; correct or remove it")
    left, right = (min(max(values[side], 0.0), float(size[0])) for side in ("left", "right"))
    top, bottom = (min(max(values[side], 0.0), float(size[1])) for side in ("top", "bottom"))
    if left >= right or top >= bottom:
        raise UserError(f"{place}: its box has no area in an image of {size[0]} x {size[1]}; correct or remove it")
    box = (left, top, right - left, bottom - top)
    fields = {
        "type": kind,
        "truncated": truncated,
        "occluded": int(occluded),
        "height": values["bottom"] - values["top"],
        "alpha": values["alpha"],
        "dimensions": [values["height"], values["width"], values["length"]],
        "location": [values["x"], values["y"], values["z"]],
        "rotation_y": values["rotation_y"],
    }
    if kind == REGION:
        return [Thing(name, box, True, {"type": REGION}) for name in classes.names]
    if (name := classes.of(kind)) is not None:
        return [Thing(name, box, False, fields)]
    beside = classes.of(NEIGHBOURS.get(kind, kind))
    if beside is not None:
        return [Thing(beside, box, True, fields)]
    tally.left_out[kind] += 1
    return []


def write_kitti(folder: Path, listed: Sequence[Listed], placing: str) -> None:
    """Write `training/image_2`, `training/label_2` and the ids of both splits in `ImageSets`.

    An image is named by its id. What an annotation does not say is written as KITTI writes what is not known; an object
    then is taken as visible and whole.

    Args:
        folder: an empty one.
        listed: the images.
        placing: how images get there.

    Raises:
        UserError: two images have one id, or one is not there.
    """
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    (folder / "training" / "label_2").mkdir(parents=True)
    seen: dict[str, Path] = {}
    for each in listed:
        name = f"{each.entry['id']:06d}"
        if (other := seen.setdefault(name, each.path)) != each.path:
            raise UserError(f"{other} and {each.path} both have id {each.entry['id']}; number them anew")
        names[each.split].append(name)
        place_image(each.path, folder / "training" / "image_2" / f"{name}{each.path.suffix}", placing)
        lines = dict.fromkeys(_line(annotation) for annotation in each.annotations)  # a region is of every class
        text = "".join(f"{line}\n" for line in lines)
        (folder / "training" / "label_2" / f"{name}.txt").write_text(text, encoding="utf-8")
    (folder / "ImageSets").mkdir()
    for split in SPLITS:
        (folder / "ImageSets" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names[split]))


def _line(annotation: Mapping[str, Any]) -> str:
    left, top, width, height = annotation["bbox"]
    kind = annotation.get("type", REGION if annotation["iscrowd"] else annotation["name"])
    known = {**UNKNOWN, "truncated": 0, "occluded": 0, **annotation}
    if kind == REGION:
        known = {**UNKNOWN, "truncated": -1, "occluded": -1}
    numbers = (
        *(known["alpha"], left, top, left + width, top + height),
        *(*known["dimensions"], *known["location"], known["rotation_y"]),
    )
    written = " ".join(f"{number:.2f}" for number in numbers)
    return f"{'_'.join(kind.split())} {known['truncated']:.2f} {known['occluded']} {written}"
