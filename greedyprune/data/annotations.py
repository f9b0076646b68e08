"""COCO annotation files: read, checked, and indexed."""

import contextlib
import functools
import hashlib
import io
import json
import mmap
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from greedyprune.data.fields import ANNOTATION, CATEGORY, FILE, IMAGE, read_entries, read_fields
from greedyprune.data.images import irregular
from greedyprune.errors import UserError
from greedyprune.ranges import shortened

LAYOUT = "train2017/, val2017/, annotations/instances_train2017.json and annotations/instances_val2017.json"


class Once:
    """True for the first call alone, of all in this process and in those that are forked from it."""

    def __init__(self) -> None:
        self._called = mmap.mmap(-1, 1)

    def __call__(self) -> bool:
        first = not self._called[0]
        self._called[0] = 1
        return first

    def __reduce__(self) -> tuple[type["Once"], tuple[()]]:
        return Once, ()


@dataclass(frozen=True)
class Annotations:
    """A checked annotation file.

    Attributes:
        path: the file.
        coco: its index; not to be changed, it is shared.
        fingerprint: SHA-256 of the file, in hex.
        first_guess: whether nothing has been said yet about images whose orientation is guessed.
    """

    path: Path
    coco: COCO
    fingerprint: str
    first_guess: Once = field(default_factory=Once, compare=False)


def open_annotations(root: Path, split: str) -> Annotations:
    """Read a split's annotations; the same file again costs nothing while it is not changed.

    Args:
        root: folder in COCO's layout.
        split: `train` or `val`.

    Raises:
        UserError: the folder, the file or the folder of images is not there, the file is not COCO's JSON, or a field
            of an entry makes no sense (see `greedyprune.data.fields`); names the file, the entry and the value.
    """
    if not root.is_dir():
        raise UserError(f"data folder {root} does not exist; it should hold {LAYOUT}")
    path = root / "annotations" / f"instances_{split}2017.json"
    images = root / f"{split}2017"
    for needed in (path, images):
        if not needed.exists():
            raise UserError(f"data folder {root} has no {needed.relative_to(root)}; it should hold {LAYOUT}")
    if kind := irregular(path):
        raise UserError(f"{path} is {kind}, not an annotation file")
    if not images.is_dir():
        raise UserError(f"{images} is not a folder of images")
    stat = path.stat()
    return _read(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _read(path: Path, modified: int, size: int) -> Annotations:
    """The stamps are part of the cache's key: a changed file is read again."""
    content = path.read_bytes()
    try:
        data = json.loads(content, object_pairs_hook=_unrepeated)
    except ValueError as error:  # JSON, its encoding, or numbers of thousands of digits
        raise UserError(f"{path} is not JSON: {error}; is the download complete?") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for an annotation file of COCO's instances") from None
    except _RepeatedKey as error:
        raise UserError(f"{path}: {error}; remove one") from None
    _check(path, data)
    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return Annotations(path, coco, hashlib.sha256(content).hexdigest())


def _check(path: Path, data: Any) -> None:
    """Hold a file against COCO's format (cocodataset.org, "Data format"), and fill in what detection sets leave out."""
    if not isinstance(data, dict) or (wrong := read_fields(data, FILE)):
        told = wrong if isinstance(data, dict) else "is no object"
        raise UserError(f"{path} {told}; it should be an annotation file of COCO's instances")
    images = read_entries(path, "image", data["images"], IMAGE)
    categories = read_entries(path, "category", data["categories"], CATEGORY)
    read_entries(path, "annotation", data["annotations"], ANNOTATION)
    for annotation in data["annotations"]:
        for kind, key, listed in (("image", "image_id", images), ("category", "category_id", categories)):
            if annotation[key] not in listed:
                told = f"annotation {annotation['id']} is of {kind} {annotation[key]}, which is not listed"
                raise UserError(f"{path}: {told}; correct or remove it")
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    names = Counter(image["file_name"] for image in data["images"])
    several = [name for name, times in names.items() if times > 1]
    if several:
        warnings.warn(
            f"{path} lists {len(several)} image files more than once, the first of them {several[0]!r}: "
            "each entry counts as an image of its own, with its own annotations only",
            stacklevel=2,
        )


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no key may come twice: Python would silently take the last value."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        of = f" of id {shortened(repr(entry['id']))}" if "id" in entry else ""
        raise _RepeatedKey(f"an object{of} has the key {shortened(repr(twice))} more than once")
    return entry


class _RepeatedKey(Exception):
    """Its message says which."""
