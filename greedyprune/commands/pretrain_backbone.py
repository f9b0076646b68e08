"""`tools/pretrain_backbone.py`: a backbone's first lesson, for `tools/train.py --backbone_weights`."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from greedyprune.cli import Parser, add_device_arguments, open_device
from greedyprune.commands.flags import add_flags, from_flags
from greedyprune.data.cache import demo_data
from greedyprune.data.coco import CocoDetection
from greedyprune.errors import UserError
from greedyprune.models.backbone import BACKBONES, Backbone
from greedyprune.ranges import IMAGES_OR_NONE
from greedyprune.report.progress import progress_bar
from greedyprune.tensors import write_tensors
from greedyprune.text import file_path
from greedyprune.training.crops import LessonOptions, cut_crops, teach


def parser() -> argparse.ArgumentParser:
    """The options of `tools/pretrain_backbone.py`."""
    parser = Parser(
        "Teach a backbone to name the objects of a data set, cut out one by one: a head start for a detector whose "
        "backbone has no ImageNet weights. Give the result to tools/train.py as --backbone_weights."
    )
    parser.add_argument("--backbone", choices=BACKBONES, default="small", help="which network")
    parser.add_argument(
        "--coco_path", type=file_path, metavar="DIR", help="data in COCO's layout (default: the embedded demo data set)"
    )
    parser.add_argument(
        "--train_images", type=IMAGES_OR_NONE.parse, default=0, metavar="N", help="the first N images only; 0: all"
    )
    parser.add_argument(
        "--output", type=file_path, default=Path("backbone.safetensors"), metavar="PATH", help="where the weights go"
    )
    add_device_arguments(parser)
    add_flags(parser.add_argument_group("training"), LessonOptions, leave_out=("amp",))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Teach as the arguments say.

    Raises:
        UserError: the data cannot be read, or the weights came out not finite.
    """
    args = parser().parse_args(argv)
    options = from_flags(LessonOptions, args)
    device = open_device(args)
    if args.output.suffix != ".safetensors":
        raise UserError(f"--output {args.output} must end in .safetensors")
    root = args.coco_path or (demo_data(train_images=args.train_images) if args.train_images else demo_data())
    dataset = CocoDetection(root, "train", None, lambda image, target: (image, target))
    if args.train_images and args.train_images < len(dataset):
        dataset = CocoDetection(root, "train", None, dataset.transform, dataset.image_ids[: args.train_images])
    torch.manual_seed(options.seed)
    crops, labels = cut_crops(dataset, options.crop, progress_bar("cut out objects"))
    backbone = Backbone(args.backbone).to(device)
    started = time.monotonic()

    def report(step: int, loss: float, accuracy: float) -> Any:
        gone = time.monotonic() - started
        print(
            f"step {step:>5}/{options.steps}  loss {loss:.4f}  accuracy {accuracy:.3f}  {gone:.0f} s", file=sys.stderr
        )

    print(f"{len(crops)} objects of {len(dataset.class_names)} classes", file=sys.stderr)
    teach(backbone, crops, labels, len(dataset.class_names), options, report)
    write_tensors(args.output, backbone.body.state_dict())
    print(f"saved {args.output}")
    return 0
