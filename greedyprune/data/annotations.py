"""COCO annotation files: read, checked, and indexed."""

import contextlib
import functools
import hashlib
import io
import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from greedyprune.errors import UserError

LAYOUT = "train2017/, val2017/, annotations/instances_train2017.json and annotations/instances_val2017.json"


@dataclass(frozen=True)
class Annotations:
    """A checked annotation file.

    Attributes:
        path: the file.
        coco: its index; not to be changed, it is shared.
        fingerprint: SHA-256 of the file, in hex.
    """

    path: Path
    coco: COCO
    fingerprint: str


def open_annotations(root: Path, split: str) -> Annotations:
    """Read a split's annotations; the same file again costs nothing while it is not changed.

    Args:
        root: folder in COCO's layout.
        split: `train` or `val`.

    Raises:
        UserError: the folder, the file or the folder of images is not there, the file is not COCO's JSON, or an entry
            of it makes no sense; names the file and the entry.
    """
    if not root.is_dir():
        raise UserError(f"data folder {root} does not exist; it should hold {LAYOUT}")
    path = root / "annotations" / f"instances_{split}2017.json"
    for needed, there in ((path, path.is_file()), (images := root / f"{split}2017", images.is_dir())):
        if not there:
            raise UserError(f"data folder {root} has no {needed.relative_to(root)}; it should hold {LAYOUT}")
    stat = path.stat()
    return _read(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _read(path: Path, modified: int, size: int) -> Annotations:
    """The stamps are part of the cache's key: a changed file is read again."""
    content = path.read_bytes()
    try:
        data = json.loads(content)
    except ValueError as error:  # JSON, or its encoding
        raise UserError(f"{path} is not JSON: {error}; is the download complete?") from None
    _check(path, data)
    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return Annotations(path, coco, hashlib.sha256(content).hexdigest())


def _check(path: Path, data: Any) -> None:
    """Hold a file against COCO's format (cocodataset.org, "Data format"), and fill in what detection sets leave out."""
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise UserError(f"{path} has no list {key!r}; it should be an annotation file of COCO's instances")
    images = _ids(path, "image", data["images"], ("file_name", "height", "width"))
    categories = _ids(path, "category", data["categories"], ("name",))
    for image in data["images"]:
        if not all(_is_number(image[side]) and image[side] > 0 for side in ("height", "width")):
            size = f"{image['width']} x {image['height']}"
            raise UserError(f"{path}: image {image['id']} ({image['file_name']}) has size {size}; correct or remove it")
    _ids(path, "annotation", data["annotations"], ("image_id", "category_id", "bbox"))
    for annotation in data["annotations"]:
        wrong = _wrong(annotation, images, categories)
        if wrong:
            raise UserError(f"{path}: annotation {annotation['id']} {wrong}; correct or remove it")
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])


def _ids(path: Path, kind: str, entries: list[Any], keys: tuple[str, ...]) -> set[Any]:
    """The ids of images, categories or annotations, which all have the keys."""
    ids: set[Any] = set()
    for place, entry in enumerate(entries):
        for key in ("id", *keys):
            if not isinstance(entry, dict) or key not in entry:
                raise UserError(f"{path}: {kind} number {place + 1} of the file has no {key!r}; correct or remove it")
        if not isinstance(entry["id"], int):
            raise UserError(f"{path}: {kind} id {entry['id']!r} is not a whole number; correct or remove it")
        if entry["id"] in ids:
            raise UserError(f"{path}: there are two of {kind} id {entry['id']}; correct or remove one")
        ids.add(entry["id"])
    return ids


def _wrong(annotation: dict[str, Any], images: Collection[Any], categories: Collection[Any]) -> str:
    """What is wrong with an annotation; empty when nothing is."""
    image, category, box = annotation["image_id"], annotation["category_id"], annotation["bbox"]
    # Only numbers are looked up: a list here could not be.
    if not _is_number(image) or image not in images:
        return f"is of image {image!r}, which is not listed"
    if not _is_number(category) or category not in categories:
        return f"is of category {category!r}, which is not listed"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"has bbox {box!r}, not four finite numbers [x, y, width, height]"
    if box[2] < 0 or box[3] < 0:
        return f"has a negative size: width {box[2]}, height {box[3]}"
    if not _is_number(annotation.get("area", 0)):
        return f"has area {annotation['area']!r}, not a number"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
