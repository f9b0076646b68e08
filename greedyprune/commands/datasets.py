"""The data set of a command, with its labels numbered as the model's."""

import argparse
from typing import Any

from torch import nn

from greedyprune.classes import ADVICE
from greedyprune.data.cache import demo_data
from greedyprune.data.coco import CocoDetection
from greedyprune.data.splits import open_split
from greedyprune.data.transforms import form_transform
from greedyprune.families import family_of


def open_dataset(
    args: argparse.Namespace, model: nn.Module, split: str, transform: Any = None, advice: str = ADVICE
) -> CocoDetection:
    """The data set of `--coco_path`, its labels numbered as the model's; see `open_split`.

    Args:
        args: parsed arguments of the data group.
        model: says which classes its labels are, and how large it wants images.
        split: `train` or `val`.
        transform: None: the evaluation transform in the model's form.
        advice: what to do where the data have classes that the model lacks.
    """
    family = family_of(model)
    root = demo_data() if args.coco_path is None else args.coco_path
    return open_split(root, split, family.classes(model), transform or form_transform(family.form(model)), advice)
