"""Data sets of other formats as COCO's layout: what the formats have in common."""

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greedyprune.data.annotations import open_annotations
from greedyprune.data.folders import SPLITS, annotation_file, new_folder
from greedyprune.errors import UserError
from greedyprune.text import printable

PLACINGS = ("copy", "hardlink", "symlink")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Thing:
    """A box with a class.

    Attributes:
        name: of the class.
        box: x, y, width and height in pixels, from the image's upper left corner.
        crowd: a region, or an object that counts neither as right nor as wrong.
        fields: what else its annotation has.
    """

    name: str
    box: tuple[float, float, float, float]
    crowd: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """An image and what is in it.

    Attributes:
        path: its file.
        name: its file's name in the folder of the split.
        height: in pixels.
        width: in pixels.
        things: in their order.
        number: its id; None: it is numbered with the others.
    """

    path: Path
    name: str
    height: int
    width: int
    things: Sequence[Thing]
    number: int | None = None


@dataclass(frozen=True)
class Source:
    """A data set that was read.

    Attributes:
        splits: the images of `train` and `val`.
        categories: id -> name.
    """

    splits: Mapping[str, Sequence[Picture]]
    categories: Mapping[int, str]


class BrokenData(UserError):
    """A line or a file that cannot be used, where nothing is skipped."""


@dataclass
class Tally:
    """What a conversion could not use.

    Attributes:
        skip: broken lines and files are counted, not refused.
        broken: a line for each of them.
        left_out: name -> objects of classes that were not asked for.
        notes: what else is to be known.
    """

    skip: bool = False
    broken: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Something that may be broken.

        Raises:
            BrokenData: it is, and nothing is skipped.
        """
        try:
            yield
        except BrokenData:  # of a line, whose file need not say it again
            raise
        except UserError as error:
            if not self.skip:
                raise BrokenData(f"{error} (--skip_broken leaves it out)") from None
            self.broken.append(str(error))

    def wanted(self, classes: "Classes", name: str) -> str | None:
        """What a class is called in the end; None: it is left out, and counted."""
        called = classes.of(name)
        if called is None:
            self.left_out[name] += 1
        return called


@dataclass(frozen=True)
class Classes:
    """The classes that are asked for.

    Attributes:
        names: in the order of their ids; empty: all that there are.
        merged: class -> the class that it is taken for.
    """

    names: tuple[str, ...] = ()
    merged: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if twice := [name for name, times in Counter(self.names).items() if times > 1]:
            raise UserError(f"--classes names {printable(twice[0])} twice; leave one out")
        for name, into in self.merged.items():
            if self.names and (into not in self.names or name in self.names):
                told = "which --classes does not name" if into not in self.names else "and --classes names both"
                raise UserError(f"--merge {printable(name)}={printable(into)}: {told}; change one of the two")

    def of(self, name: str) -> str | None:
        """What a class is called in the end; None: it is left out."""
        called = self.merged.get(name, name)
        return called if not self.names or called in self.names else None

    def numbered(self, found: Sequence[str], first: int = 1) -> dict[int, str]:
        """Ids for the classes: those asked for, or those found, in their order."""
        names = self.names or tuple(dict.fromkeys(self.of(name) or name for name in found))
        return dict(enumerate(names, start=first))


def write_coco(folder: Path, source: Source, placing: str = "copy") -> None:
    """Write a data set in COCO's layout, whole or not at all.

    Args:
        folder: not there yet, or empty.
        source: the data.
        placing: one of `PLACINGS`: how images get there.

    Raises:
        UserError: the folder is not empty, or two images of a split have one name, or one cannot be placed.
        OSError: the disk refuses; names the folder.
    """
    ids = {name: number for number, name in source.categories.items()}
    numbers = {split: _numbers(source, split) for split in SPLITS}
    with new_folder(folder) as unfinished:
        (unfinished / "annotations").mkdir()
        for split in SPLITS:
            (unfinished / f"{split}2017").mkdir()
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for number, picture in zip(numbers[split], source.splits[split], strict=True):
                size = {"height": picture.height, "width": picture.width}
                images.append({"id": number, "file_name": picture.name, **size})
                for thing in picture.things:
                    annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": ids[thing.name]}
                    box = {"bbox": list(thing.box), "area": thing.box[2] * thing.box[3], "iscrowd": int(thing.crowd)}
                    annotations.append({**annotation, **box, **thing.fields})
                place_image(picture.path, unfinished / f"{split}2017" / picture.name, placing)
            categories = [{"id": number, "name": name} for number, name in source.categories.items()]
            content = {"images": images, "annotations": annotations, "categories": categories}
            annotation_file(unfinished, split).write_text(json.dumps(content, allow_nan=False))


def _numbers(source: Source, split: str) -> list[int]:
    """The ids of a split's images: their own where all have one, else counted on from split to split."""
    pictures = source.splits[split]
    names = Counter(picture.name for picture in pictures)
    for name, times in names.items():
        if times > 1:
            raise UserError(f"{times} images of {split} are called {printable(name)}; rename all but one")
    own = [picture.number for picture in pictures if picture.number is not None]
    if len(set(own)) == len(pictures):
        return own
    before = 0 if split == SPLITS[0] else len(source.splits[SPLITS[0]])
    return list(range(before + 1, before + len(pictures) + 1))


def place_image(path: Path, target: Path, placing: str) -> None:
    """Copy or link an image.

    Raises:
        UserError: there is no such file, or it cannot be linked.
        OSError: the disk refuses.
    """
    if not path.is_file():
        raise UserError(f"image {path} is not there; restore it")
    target.parent.mkdir(parents=True, exist_ok=True)
    if placing == "copy":
        shutil.copyfile(path, target)
    elif placing == "hardlink":
        try:
            os.link(path.resolve(), target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP):
                raise
            raise UserError(f"{path} cannot be linked from another disk; give --images copy or symlink") from None
    else:
        target.symlink_to(path.resolve())


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """A text file.

    Raises:
        UserError: it is not there, cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; restore or remove it") from None
    except UnicodeError:
        raise UserError(f"{path} is not {encoding.removesuffix('-sig')}; save it anew, or remove it") from None


def read_ids(path: Path, tally: Tally) -> list[str]:
    """The first word of every line that has one: the ids of a split's images.

    Raises:
        UserError: the file cannot be read, or has an id twice or one that leads to another folder.
    """
    ids: dict[str, None] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        with tally.passing():
            for word in line.split()[:1]:
                if word in ids:
                    raise UserError(f"{path} line {number}: {printable(word)} is there twice; remove one")
                if Path(word).name != word:
                    raise UserError(f"{path} line {number}: {printable(word)} is no id of an image; correct it")
                ids[word] = None
    return list(ids)


def find_image(stem: Path, usual: str) -> Path:
    """The image of a path without its ending: the one with the usual ending, where no other is there."""
    paths = [stem.with_name(stem.name + ending) for ending in (usual, *IMAGE_ENDINGS)]
    return next((path for path in paths if path.exists()), paths[0])


@dataclass(frozen=True)
class Listed:
    """An image of a data set in COCO's layout, on its way into another format.

    Attributes:
        split: `train` or `val`.
        path: its file.
        entry: its entry in the annotation file.
        annotations: its annotations, each with the name of its class as `name`.
    """

    split: str
    path: Path
    entry: Mapping[str, Any]
    annotations: Sequence[Mapping[str, Any]]


def read_coco(folder: Path) -> tuple[list[Listed], dict[int, str]]:
    """The images of a data set in COCO's layout, and its categories: id -> name.

    Raises:
        UserError: it cannot be read (see `open_annotations`), or its splits have different categories.
    """
    listed: list[Listed] = []
    categories: dict[int, str] = {}
    for split in SPLITS:
        annotations = open_annotations(folder, split)
        coco = annotations.coco
        named = {key: coco.cats[key]["name"] for key in sorted(coco.cats)}
        if categories and named != categories:
            raise UserError(f"{annotations.path} has other categories than those of train; give both the same")
        categories = named
        for image in sorted(coco.imgs):
            own = [{**each, "name": named[each["category_id"]]} for each in coco.imgToAnns.get(image, ())]
            path = folder / f"{split}2017" / coco.imgs[image]["file_name"]
            listed.append(Listed(split, path, coco.imgs[image], own))
    return listed, categories
