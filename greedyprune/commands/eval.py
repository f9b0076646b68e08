"""`tools/eval.py`: how well a detector detects, and what it costs."""

import argparse
import json
import sys
from collections.abc import Sequence

from greedyprune.cli import (
    Parser,
    add_data_arguments,
    add_device_arguments,
    add_model_arguments,
    open_model,
)
from greedyprune.commands.datasets import open_dataset
from greedyprune.data.coco import CocoDetection
from greedyprune.evaluation.draw import draw_pairs
from greedyprune.evaluation.evaluate import EvalResult, evaluate, subset_ids
from greedyprune.evaluation.metrics import COCO, METRICS
from greedyprune.evaluation.nothing import NOTHING, doubt, why_nothing
from greedyprune.ranges import COUNT, COUNT_OR_NONE, SEED, SHARE
from greedyprune.report.progress import progress_bar
from greedyprune.report.tables import print_evaluation
from greedyprune.text import file_path


def parser() -> argparse.ArgumentParser:
    """The options of `tools/eval.py`."""
    parser = Parser(
        "Evaluate a detector: the twelve COCO numbers (pycocotools) or another metric's, the AP of every class, and "
        "parameters, multiply-adds and latency of the model and of its Transformer alone."
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--whole_heads",
        action="store_true",
        help="the checkpoint was pruned by whole heads; only needed where it does not say so itself",
    )
    add_data_arguments(parser)
    add_device_arguments(parser)
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--metric",
        choices=tuple(METRICS),
        default=COCO,
        help="coco; VOC's AP of 2007 (11 points) or 2010 (area) at an overlap of 0.5; KITTI's levels of 2D boxes",
    )
    group.add_argument("--split", choices=("val", "train"), default="val", help="images to evaluate on")
    group.add_argument(
        "--eval_images", type=COUNT_OR_NONE.parse, default=0, metavar="N", help="evaluate on N of them only; 0: all"
    )
    group.add_argument("--seed", type=SEED.parse, default=0, metavar="N", help="chooses the images of --eval_images")
    group.add_argument(
        "--latency_runs", type=COUNT_OR_NONE.parse, default=20, metavar="N", help="timed forward passes; 0: none"
    )
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object on stdout, and nothing else there")
    group.add_argument(
        "--draw", type=file_path, metavar="DIR", help="write pictures of detections beside the ground truth"
    )
    group.add_argument("--draw_images", type=COUNT.parse, default=16, metavar="N", help="how many pictures")
    group.add_argument("--draw_score", type=SHARE.parse, default=0.3, metavar="S", help="lowest score that is drawn")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate as the arguments say, and print the result.

    Raises:
        UserError: see `open_model`, `open_dataset` and `evaluate`.
    """
    args = parser().parse_args(argv)
    model = open_model(args)
    dataset = open_dataset(args, model, args.split)
    if args.draw is not None:
        args.draw.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made is better known now
    result = evaluate(
        model,
        dataset,
        images=args.eval_images,
        seed=args.seed,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        amp=args.amp,
        latency_runs=args.latency_runs,
        metric=args.metric,
        progress=progress_bar("evaluate"),
    )
    _tell_doubts(args, dataset, result)
    if args.json:
        print(json.dumps(result.to_json(), allow_nan=False))
    else:
        print_evaluation(result)
    if args.draw is not None and result.detections is not None:
        chosen = subset_ids(dataset.image_ids, args.eval_images, args.seed)[: args.draw_images]
        drawn = draw_pairs(dataset, result.detections, chosen, args.draw, min_score=args.draw_score)
        print(f"{len(drawn)} pictures in {args.draw}", file=sys.stderr)
    return 0


def _tell_doubts(args: argparse.Namespace, dataset: CocoDetection, result: EvalResult) -> None:
    """What speaks against model and data belonging together, on stderr."""
    chosen, ap = subset_ids(dataset.image_ids, args.eval_images, args.seed), result.accuracy["AP"]
    assert result.detections is not None
    told = doubt(dataset.coco, chosen, result.detections, ap if result.metric == COCO else None)
    if ap < NOTHING:
        told = f"nothing is found: {why_nothing(dataset.coco, chosen, result.detections)}"
    if told:
        print(f"warning: {told}", file=sys.stderr)
