"""`tools/bench_scorers.py`: what every scorer leaves of the AP, without fine-tuning, at the same widths."""

import argparse
import time
from collections.abc import Sequence

from rich.table import Table

from greedyprune.cfgs import PRUNE, check_cfgs, parse_cfgs
from greedyprune.cli import (
    Parser,
    add_data_arguments,
    add_device_arguments,
    add_model_arguments,
    open_model,
)
from greedyprune.commands.calibration import BATCH, calibration_ids, open_mending, scoring_ids
from greedyprune.commands.datasets import open_dataset
from greedyprune.commands.needs import Need, Needs, check_needs, parse_given
from greedyprune.commands.prune_needs import CLOSED_FORM, SCORERS_OF
from greedyprune.commands.prune_options import add_mending_images
from greedyprune.evaluation.evaluate import subset_ids
from greedyprune.models import Detector
from greedyprune.pruning.scorers import SCORERS, Given
from greedyprune.pruning.sites import Site, list_sites
from greedyprune.ranges import COUNT, COUNT_OR_NONE, SEED
from greedyprune.report import open_console
from greedyprune.search.cutter import Cutter
from greedyprune.search.evaluator import Evaluator
from greedyprune.search.images import Images, Room
from greedyprune.search.loop import measure_baseline

SHARES = (0.75, 0.5, 0.375, 0.25)
_MENDING = Need("nothing is mended without --mend_steps N", lambda args: args.mend_steps)
_BACKBONE = Need("it is for --prune backbone and all", lambda args: args.prune != "transformer")
_NEEDS: Needs = {
    "scorers": (Need(CLOSED_FORM, lambda args: set(args.scorers) <= set(SCORERS_OF[args.prune])),),
    "mend_images": (_MENDING,),
    "mend_augment": (_MENDING, _BACKBONE),
}


def parser() -> argparse.ArgumentParser:
    """The options of `tools/bench_scorers.py`."""
    parser = Parser("What every scorer leaves of the AP, without fine-tuning, all sites cut to the same share.")
    add_model_arguments(parser)
    add_data_arguments(parser, batch_size=25)
    add_device_arguments(parser, amp=False)
    parser.add_argument("--prune", choices=PRUNE, default="transformer", help="whose sites")
    parser.add_argument("--widths", nargs="+", metavar="WIDTHS", help="one width list instead of the shares")
    parser.add_argument(
        "--scorers",
        nargs="+",
        choices=SCORERS,
        default=[],
        help="which (default: all that --prune leaves, but exact, whose order of every site takes very long)",
    )
    parser.add_argument("--eval_images", type=COUNT_OR_NONE.parse, default=0, metavar="N", help="0: all")
    parser.add_argument("--calib_images", type=COUNT.parse, default=200, metavar="N", help="training images")
    parser.add_argument(
        "--mend_steps",
        type=COUNT_OR_NONE.parse,
        default=0,
        metavar="N",
        help="also mend every refitted model, in so many steps (default: 0, which leaves that out)",
    )
    add_mending_images(parser)
    parser.add_argument("--seed", type=SEED.parse, default=0, metavar="N", help="chooses the images")
    parser.set_defaults(whole_heads=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table.

    Raises:
        UserError: the model, the data or the widths cannot be used.
    """
    args, given = parse_given(parser(), argv)
    check_needs(args, given, _NEEDS)
    scorers = args.scorers or [scorer for scorer in SCORERS_OF[args.prune] if scorer != "exact"]
    model = open_model(args)
    val, train = open_dataset(args, model, "val"), open_dataset(args, model, "train")
    sites = list_sites(model, args.prune)
    columns: dict[str, dict[str, int]] = {f"{share:.1%}": _even(sites, share) for share in SHARES}
    if args.widths is not None:
        options = model.options
        cfgs = check_cfgs(parse_cfgs(args.widths, "--widths"), model.cfgs, options.heads, options.unit)
        columns = {"--widths": cfgs.widths(args.prune)}
    room = Room(round(8e9))
    score = scoring_ids(train, 64, args.seed)
    ids = calibration_ids(train, score, args.calib_images, args.seed)
    calibration = Images(model, train, ids, BATCH, room, args.num_workers)
    mending = open_mending(model, train, score, vars(args), room, args.num_workers)
    judged = Images(model, val, subset_ids(val.image_ids, args.eval_images, args.seed), args.batch_size, room)
    none = Images(model, val, [], args.batch_size, room)

    def ap(slim: Detector) -> float:
        if args.prune != "transformer":
            judged.reload(slim)
        return Evaluator(slim, judged, none, none, val.coco).subset_map()[0]

    dense = measure_baseline(Evaluator(model, judged, none, none, val.coco)).full_map
    table = Table(title=f"AP of {len(judged)} images; dense {dense:.4f}; {len(ids)} calibration images")
    for column in ("scorer", "refit", "mended", "seconds", *columns):
        table.add_column(column, justify="left" if column == "scorer" else "right")
    statistics = Given(model, sites, lambda: calibration.labelled(model), calibration.pictures, args.seed)
    started = time.perf_counter()
    _ = statistics.moments, statistics.unfolded
    print(f"statistics of the calibration images took {time.perf_counter() - started:.1f} s")
    if args.mend_steps and args.prune == "transformer":
        mending.kept()  # before the clock: all scorers have the same ones
    ways = [(True, True)] * bool(args.mend_steps) + [(True, False)]
    if args.prune != "backbone":  # what reads its channels is always solved again
        ways.append((False, False))
    for scorer in scorers:
        for refit, mends in ways:
            started = time.perf_counter()
            cutter = Cutter(statistics, scorer, refit, mending, lambda text: None)
            slim = [cutter.model(widths, mends) for widths in columns.values()]
            seconds = time.perf_counter() - started
            told = ["yes" if refit else "no", "yes" if mends else "no", f"{seconds:.1f}"]
            table.add_row(scorer, *told, *(f"{ap(each):.4f}" for each in slim))
    open_console().print(table)
    return 0


def _even(sites: Sequence[Site], share: float) -> dict[str, int]:
    return {site.name: max(site.grain, round(site.width * share / site.grain) * site.grain) for site in sites}
