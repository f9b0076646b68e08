"""The data set of a command, with its labels numbered as the model's."""

import argparse
import functools
import os
import sys
from pathlib import Path
from typing import Any

from greedyprune.classes import ADVICE, Classes, map_labels
from greedyprune.data.annotations import open_annotations
from greedyprune.data.cache import demo_data
from greedyprune.data.coco import CocoDetection
from greedyprune.data.transforms import eval_transform
from greedyprune.errors import UserError
from greedyprune.models import Detector


def open_dataset(
    args: argparse.Namespace, model: Detector, split: str, transform: Any = None, advice: str = ADVICE
) -> CocoDetection:
    """The data set of `--coco_path`, its labels numbered as the model's.

    Args:
        args: parsed arguments of the data group.
        model: says which classes its labels are, and how large it wants images.
        split: `train` or `val`.
        transform: None: the evaluation transform at the model's image size.
        advice: what to do where the data have classes that the model lacks.

    Raises:
        UserError: the data cannot be read, or have objects of classes that the model lacks.
    """
    root = demo_data() if args.coco_path is None else args.coco_path
    transform = transform or eval_transform(model.info.short_side, model.info.long_side)
    annotations = open_annotations(root, split)
    found = map_labels(model.classes, annotations.coco, annotations.path, advice)
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
