"""Splits of data sets with their labels numbered as a detector's."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from greedyprune.classes import ADVICE, Classes, map_labels
from greedyprune.data.annotations import open_annotations
from greedyprune.data.coco import CocoDetection
from greedyprune.errors import UserError


def open_split(
    root: str | Path, split: str, classes: Classes, transform: Callable[..., Any] | None, advice: str = ADVICE
) -> CocoDetection:
    """A split of a folder in COCO's layout, its labels numbered as a detector's.

    Args:
        root: the folder.
        split: `train` or `val`.
        classes: of the detector.
        transform: see `CocoDetection`.
        advice: what to do where the data have classes that the detector lacks.

    Raises:
        UserError: the data cannot be read, or have objects of classes that the detector lacks.
    """
    annotations = open_annotations(Path(root), split)
    found = map_labels(classes, annotations.coco, annotations.path, advice)
    if found.note:
        _note(found.note)
    return CocoDetection(root, split, found.categories, transform)


def data_classes(root: Path) -> Classes:
    """The classes of the training images in a folder, for a detector that is made for them.

    Raises:
        UserError: the data cannot be read, or have no categories.
    """
    annotations = open_annotations(root, "train")
    classes = Classes.of_data(annotations.coco)
    if not classes.count:
        raise UserError(f"{annotations.path} lists no categories; a detector needs at least one class")
    return classes


@functools.cache
def _note(text: str) -> None:
    """A line on stderr, once: a command opens several splits of the same data, in each of torchrun's processes."""
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {text}", file=sys.stderr)
