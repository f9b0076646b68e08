"""`tools/prune_greedy.py` and `tools/prune_greedy_ad.py`: search the width of every site."""

import argparse
import copy
import hashlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from greedyprune.cfgs import parse_cfgs
from greedyprune.cli import (
    Parser,
    add_data_arguments,
    add_device_arguments,
    add_model_arguments,
    open_dataset,
    open_model,
    whole_number,
)
from greedyprune.data.coco import CocoDetection
from greedyprune.errors import UserError
from greedyprune.evaluation.evaluate import evaluate, subset_ids, typical_size
from greedyprune.evaluation.predict import autocast
from greedyprune.models import MODELS, Detector
from greedyprune.models.registry import model_name
from greedyprune.pruning.kept import KeptSets
from greedyprune.pruning.schedule import SCHEDULES, KindOptions, ScheduleOptions
from greedyprune.pruning.sites import list_sites
from greedyprune.pruning.transplant import transplant
from greedyprune.report import progress_bar
from greedyprune.search.cost import CostModel
from greedyprune.search.display import SearchDisplay, duration
from greedyprune.search.evaluator import Evaluator
from greedyprune.search.images import Images, Room
from greedyprune.search.loop import search
from greedyprune.search.result import comparison_table, site_table, summarize, write_result
from greedyprune.search.study import Study

SCORER = "loss"
# Settings of a kind of sites: type, default for attention and for FFN, and what it is.
_OF_KIND: dict[str, tuple[type, Any, Any, str]] = {
    "map_tol": (float, 0.02, 0.02, "a site is done at (1 - this) x its target AP"),
    "skip_eval_converge": (float, None, None, "no full evaluation while the subset's AP is below (1 - this) x target"),
    "num_evaluate": (int, 32, 96, "candidate channels scored in a round, drawn at random; 0: all"),
}


def _gigabytes(text: str) -> float:
    """An argparse type: 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of gigabytes of at least 0")
    return number


def parser(schedule: str) -> argparse.ArgumentParser:
    """The options of both tools.

    Args:
        schedule: the tool's own default.
    """
    parser = Parser(
        "Search the smallest width of every site that holds the AP you ask for. Every trial is in the database: "
        "stop at any moment, and the same command goes on."
    )
    add_model_arguments(parser)
    parser.add_argument(
        "-m", "--model", choices=tuple(MODELS), help="refuse a checkpoint of another model (default: take any)"
    )
    add_data_arguments(parser, batch_size=25)
    add_device_arguments(parser)
    group = parser.add_argument_group("schedule")
    group.add_argument("--schedule", choices=SCHEDULES, default=schedule, help="order of the sites and their targets")
    for name, (kind, attn, ffn, text) in _OF_KIND.items():
        default = attn if attn == ffn else f"{attn} for attention, {ffn} for FFN"
        if default is None:
            default = "gp: map_tol, so that the subset is given the same tolerance; modular: 0"
        group.add_argument(f"--{name}", type=kind, metavar="X", help=f"{text} (default: {default})")
    for name, (kind, *_) in _OF_KIND.items():
        for part in ("attn", "ffn"):
            group.add_argument(f"--{part}.{name}", type=kind, metavar="X", help=f"--{name} of {part} sites alone")
    group.add_argument(
        "--attn_step", type=whole_number(1), default=1, metavar="N", help="channels that a round adds to every head"
    )
    group.add_argument(
        "--ffn_step", type=whole_number(1), default=32, metavar="N", help="channels that a round adds to an FFN"
    )
    group.add_argument(
        "--site_decay",
        type=float,
        default=0.0112,
        metavar="X",
        help="gp: the target falls by this share of the dense AP a site (published: 0.5 points at 44.6)",
    )
    group.add_argument("--seed", type=int, default=0, help="draws the candidates, the subset and the scoring images")
    group = parser.add_argument_group("images")
    group.add_argument(
        "--eval_images",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="validation images of a full evaluation; 0: all",
    )
    group.add_argument(
        "--subset_images", type=whole_number(1), default=100, metavar="N", help="those of the subset evaluation"
    )
    group.add_argument(
        "--score_images", type=whole_number(1), default=16, metavar="N", help="training images that score candidates"
    )
    group.add_argument(
        "--cache_gb",
        type=_gigabytes,
        default=8.0,
        metavar="X",
        help="memory for what the backbone and finished layers made of the images; with less, the same result later",
    )
    group = parser.add_argument_group("state and output")
    group.add_argument(
        "--output_dir", type=Path, default=Path("runs/prune"), metavar="DIR", help="for cfgs.json and result.json"
    )
    group.add_argument(
        "--db", metavar="URL", help="database: a file or an SQLAlchemy URL (default: OUTPUT_DIR/prune.db)"
    )
    group.add_argument("--study", metavar="NAME", help="name of the study (default: prune-SCHEDULE)")
    return parser


def schedule_options(args: argparse.Namespace, heads: int) -> ScheduleOptions:
    """The schedule that the arguments describe; `--attn_step` counts channels of one head, a site's step those of all.

    Raises:
        UserError: a value out of range.
    """
    kinds = {}
    for part, step in (("attn", args.attn_step * heads), ("ffn", args.ffn_step)):
        values: dict[str, Any] = {}
        for name, (_, attn, ffn, _) in _OF_KIND.items():
            given = [getattr(args, f"{part}.{name}"), getattr(args, name), attn if part == "attn" else ffn]
            values[name] = next((value for value in given if value is not None), None)
        if values["skip_eval_converge"] is None:
            values["skip_eval_converge"] = values["map_tol"] if args.schedule == "gp" else 0.0
        kinds[part] = KindOptions(**values, step=step)
    return ScheduleOptions(args.schedule, kinds["attn"], kinds["ffn"], args.site_decay, args.seed)


def main(argv: Sequence[str] | None = None, schedule: str = "gp") -> int:
    """Search as the arguments say, and print what was found.

    Args:
        argv: the command line.
        schedule: the default of `--schedule`.

    Raises:
        UserError: the model, the data or the database cannot be used, or the study belongs to another search.
    """
    args = parser(schedule).parse_args(argv)
    model = open_model(args)
    if args.model and args.model != model_name(model):
        raise UserError(
            f"checkpoint {args.resume} is of {model_name(model)}, not of --model {args.model}; give another --resume"
        )
    if model.cfgs != model.options.dense_cfgs():
        raise UserError(f"checkpoint {args.resume} is slim already; search on the dense model")
    options = schedule_options(args, model.options.heads)
    val, train = open_dataset(args, model, "val"), open_dataset(args, model, "train")
    full = subset_ids(val.image_ids, args.eval_images, args.seed)
    subset = subset_ids(full, args.subset_images, args.seed)
    score = subset_ids([i for i in train.image_ids if train.coco.getAnnIds(i)], args.score_images, args.seed)
    settings = {
        **options.to_dict(),
        "scorer": SCORER,
        "eval_images": len(full),
        "subset_images": len(subset),
        "score_images": len(score),
        "batch_size": args.batch_size,
        "amp": args.amp,
        "weights": weights_hash(model),
        "val_data": val.fingerprint,
        "train_data": train.fingerprint,
    }
    name = args.study or f"prune-{args.schedule}"
    command = shlex.join(["python", *sys.argv[:1], *(sys.argv[1:] if argv is None else argv)])
    cost = CostModel(model, typical_size(val, full))
    steps = {site.name: (site.width, options.kind(site).step) for site in list_sites(model)}
    db = args.db or str(args.output_dir / "prune.db")
    with Study.open(db, name, settings, sites=steps, command_hint=command) as study:
        result = study.result()
        if result is None:
            try:
                kept = _search(args, options, model, (val, subset, full), (train, score), cost, study)
                result = _final(args, model, val, kept, study)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"every finished trial is in the database; go on with: {command}") from None
            study.set_result(result)
            print(f"{study.bookkeeping_seconds:.1f} s of this run went into the database", file=sys.stderr)
        else:
            print(f"study {name} is finished; this is its result", file=sys.stderr)
    write_result(result, args.output_dir)
    widths = parse_cfgs(result["cfgs"]).widths()
    console = Console()
    console.print(site_table(cost.full, widths))
    console.print(comparison_table(result, cost))
    print(f"{result['image_forwards']:,} image forwards in {duration(result['seconds'])}; files in {args.output_dir}")
    print("--cfgs")
    print(parse_cfgs(result["cfgs"]))
    return 0


def _search(
    args: argparse.Namespace,
    options: ScheduleOptions,
    model: Detector,
    val: tuple[CocoDetection, list[int], list[int]],
    train: tuple[CocoDetection, list[int]],
    cost: CostModel,
    study: Study,
) -> KeptSets:
    dataset, subset, full = val
    pruned = copy.deepcopy(model)
    device = next(model.parameters()).device

    room = Room(round(args.cache_gb * 1e9))

    def images(data: CocoDetection, ids: Sequence[int], text: str) -> Images:
        return Images(pruned, data, ids, args.batch_size, room, args.num_workers, progress_bar(f"backbone, {text}"))

    with autocast(device, args.amp, in_place=True), SearchDisplay() as display:
        # In the order of how often they are needed.
        score = images(*train, "scoring images")
        small = images(dataset, subset, "validation subset")
        rest = images(dataset, sorted(set(full) - set(subset)), "validation images")
        evaluator = Evaluator(pruned, small, rest, score, dataset.coco)
        return search(pruned, options, evaluator, cost, study, display)


def _final(
    args: argparse.Namespace, model: Detector, val: CocoDetection, kept: KeptSets, study: Study
) -> dict[str, Any]:
    """The last full evaluation, of the dense and of the slim model, from images to AP."""
    slim = transplant(model, kept)
    measured = [
        evaluate(
            each,
            val,
            images=args.eval_images,
            seed=args.seed,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            amp=args.amp,
            progress=progress_bar(f"evaluate, {text}"),
        ).to_json()
        for text, each in (("dense", model), ("slim", slim))
    ]
    baseline = study.baseline()
    assert baseline is not None
    return summarize(slim.cfgs, args.schedule, SCORER, baseline, study.records(), *measured)


def weights_hash(model: Detector) -> str:
    """sha256 of all tensors, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()
