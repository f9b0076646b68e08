"""`tools/transplant.py --method`: what a classical method leaves of a detector."""

import argparse
import sys
from typing import Any

from torch import nn

from greedyprune.classical import METHODS, Subject, method_of
from greedyprune.classical.weights import nonzero
from greedyprune.commands.datasets import open_dataset
from greedyprune.data.batches import DatasetBatches
from greedyprune.errors import UserError
from greedyprune.evaluation.evaluate import subset_ids
from greedyprune.families import family_of
from greedyprune.ranges import COUNT
from greedyprune.search.options import SearchImages
from greedyprune.search.setup import MEND_BATCH, Resources
from greedyprune.text import plain_text


def add_method_arguments(parser: Any) -> None:
    """`--method` and what it needs."""
    group = parser.add_argument_group("a classical method", "see docs/CLASSICAL.md; --coco_path and --cache_gb apply")
    group.add_argument(
        "--method",
        type=plain_text,
        metavar="NAME:AMOUNT",
        help=f"prune --resume by one of {', '.join(METHODS)}; the amount is the share that goes, or so many layers",
    )
    group.add_argument(
        "--as_published",
        action="store_true",
        help="the rule of the published code, which writes zeros and makes nothing smaller",
    )
    group.add_argument(
        "--calib_images",
        type=COUNT.parse,
        metavar="N",
        help=f"training images that a method looks at (default: {SearchImages.calib_images})",
    )


def pruned_by(args: argparse.Namespace, model: nn.Module) -> nn.Module:
    """A copy of the model, pruned as `--method` says.

    Raises:
        UserError: an unknown method or amount, or a flag that does nothing for it.
    """
    method, amount = method_of(args.method)
    family, batches = family_of(model), None
    if method.looks:
        data = open_dataset(args, model, "train")
        labelled = [image for image in data.image_ids if data.coco.imgToAnns.get(image)]
        known = labelled if method.labelled else data.image_ids
        ids = subset_ids(known, args.calib_images or SearchImages.calib_images, 0)
        batches = DatasetBatches(data, ids, MEND_BATCH)
    else:
        for name in ("coco_path", "calib_images", "cache_gb"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name} does nothing in this call: {method.name} looks at no images; leave it out")
    cache_gb = Resources.cache_gb if args.cache_gb is None else args.cache_gb
    subject = Subject(family, model, batches, room=round(cache_gb * 1e9))
    if not args.as_published:
        slim = method.apply(subject, amount)
    else:
        pruned = method.published(subject, amount)
        slim = family.slim(model, pruned.change)
        if pruned.cut is not None:
            cut = sum(each.numel() for each in family.slim(model, pruned.cut).parameters())
            print(f"cut instead of zeroed it has {cut:,} parameters", file=sys.stderr)
    print(f"parameters that are not zero: {nonzero(slim):,}", file=sys.stderr)
    return slim
