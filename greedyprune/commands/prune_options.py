"""The command line of a search, and the schedule that it describes."""

import argparse
from pathlib import Path
from typing import Any

from greedyprune.cfgs import PRUNE
from greedyprune.cli import (
    Parser,
    add_cache_argument,
    add_data_arguments,
    add_device_arguments,
    add_model_arguments,
)
from greedyprune.data.transforms import AUGMENTATIONS
from greedyprune.errors import UserError
from greedyprune.models import MODELS
from greedyprune.pruning.schedule import SCHEDULES, KindOptions, ScheduleOptions
from greedyprune.pruning.scorers import SCORERS
from greedyprune.ranges import COUNT, COUNT_OR_NONE, SEED, SHARE_BELOW_ONE, Range
from greedyprune.search.steps import BUDGET, COSTS, SAMPLERS, GlobalOptions
from greedyprune.text import file_path, plain_text

_NAMES = {"flops": "multiply-adds", "params": "parameters", "latency": "measured latency"}
# Settings of a kind of sites: range, default for attention and for FFN, and what it is.
_OF_KIND: dict[str, tuple[Range, Any, Any, str]] = {
    "map_tol": (SHARE_BELOW_ONE, 0.02, 0.02, "share of the AP that may be lost; gp, modular: of a site's target AP"),
    "skip_eval_converge": (
        SHARE_BELOW_ONE,
        None,
        None,
        "no full evaluation while the subset's AP is below (1 - this) x target",
    ),
    "num_evaluate": (
        COUNT_OR_NONE,
        32,
        96,
        "gp, modular: candidates scored in a round, channels or whole heads, drawn; 0: all",
    ),
}


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
    group.add_argument(
        "--schedule",
        choices=("global", *SCHEDULES),
        default=schedule,
        help="global: every site weighed against every other; gp, modular: one site after another, as published",
    )
    for name, (kind, attn, ffn, text) in _OF_KIND.items():
        default = attn if attn == ffn else f"{attn} for attention, {ffn} for FFN"
        if default is None:
            default = "map_tol, so that the subset is given the same tolerance; modular: 0"
        group.add_argument(f"--{name}", type=kind.parse, metavar="X", help=f"{text} (default: {default})")
    for name, (kind, *_) in _OF_KIND.items():
        for part in ("attn", "ffn"):
            group.add_argument(f"--{part}.{name}", type=kind.parse, metavar="X", help=f"--{name} of {part} sites alone")
    group.add_argument(
        "--whole_heads",
        action="store_true",
        help="attention leaves head by head, and a head that stays keeps all its channels",
    )
    group.add_argument(
        "--attn_step",
        type=COUNT.parse,
        default=1,
        metavar="N",
        help="channels of every head that a width changes by; with --whole_heads: heads",
    )
    group.add_argument(
        "--ffn_step", type=COUNT.parse, default=32, metavar="N", help="channels of an FFN that its width changes by"
    )
    group.add_argument(
        "--conv_step", type=COUNT.parse, default=16, metavar="N", help="channels that a backbone width changes by"
    )
    group.add_argument(
        "--site_decay",
        type=SHARE_BELOW_ONE.parse,
        default=0.0112,
        metavar="X",
        help="gp: the target falls by this share of the dense AP a site (published: 0.5 points at 44.6)",
    )
    group.add_argument(
        "--seed", type=SEED.parse, default=0, metavar="N", help="draws candidates, subset and scoring images"
    )
    group = parser.add_argument_group("global")
    group.add_argument(
        "--prune",
        choices=PRUNE,
        default="transformer",
        help="whose widths are searched; the backbone's are the inner ones of its blocks (default: transformer)",
    )
    for cost in COSTS:
        group.add_argument(
            f"--target_{cost}",
            type=BUDGET.parse,
            metavar="SHARE",
            help=f"the best AP with this share of the dense model's {_NAMES[cost]}, instead of the least for --map_tol",
        )
    group.add_argument(
        "--cost", choices=COSTS, help="what to save while --map_tol holds (default: flops, or that of --target_...)"
    )
    group.add_argument(
        "--scorer",
        choices=SCORERS,
        help="what a site keeps: the closed form (basis), or channels by a score (default: basis; gp, modular: exact)",
    )
    group.add_argument(
        "--refit",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="solve what reads the kept channels again (default: yes)",
    )
    group.add_argument(
        "--rounds",
        type=COUNT_OR_NONE.parse,
        metavar="N",
        help="moves of channels between sites, at most (default: 0; without mending 6)",
    )
    group.add_argument(
        "--mend_steps",
        type=COUNT_OR_NONE.parse,
        default=1100,
        metavar="N",
        help="steps that mend a narrower model on training images, without labels; 0: the closed form alone "
        "(default: 1100)",
    )
    group.add_argument(
        "--mends",
        type=COUNT_OR_NONE.parse,
        default=1,
        metavar="N",
        help="mended models that are to hold, each narrower than the last (default: 1)",
    )
    group.add_argument(
        "--pareto",
        type=COUNT_OR_NONE.parse,
        nargs="?",
        const=8,
        default=0,
        metavar="N",
        help="after the search, evaluate widths for N budgets (8 without N) that spread over all there are: one search "
        "answers for every budget. A finished study goes on with it. DIR/pareto.png shows AP against cost",
    )
    group.add_argument(
        "--refine",
        type=COUNT_OR_NONE.parse,
        default=0,
        metavar="N",
        help="after those, evaluate N proposals of one of Optuna's samplers, which is told every unmended trial before",
    )
    group.add_argument(
        "--sampler",
        choices=SAMPLERS,
        default="tpe",
        help="of --refine: tpe goes for the cost that can be saved while --map_tol holds (with --target_...: for AP "
        "within it), nsgaii for the whole front (default: tpe)",
    )
    group = parser.add_argument_group("images")
    group.add_argument(
        "--eval_images",
        type=COUNT_OR_NONE.parse,
        default=0,
        metavar="N",
        help="validation images of a full evaluation; 0: all",
    )
    group.add_argument(
        "--subset_images", type=COUNT.parse, default=100, metavar="N", help="those of the subset evaluation"
    )
    group.add_argument(
        "--score_images",
        type=COUNT.parse,
        metavar="N",
        help="training images that tell candidates or damage apart (default: 64; gp, modular: 16)",
    )
    add_cache_argument(group)
    group.add_argument(
        "--calib_images",
        type=COUNT.parse,
        default=200,
        metavar="N",
        help="global: other training images, of the closed form's statistics",
    )
    add_mending_images(group)
    group = parser.add_argument_group("state and output")
    group.add_argument(
        "--output_dir",
        type=file_path,
        default=Path("runs/prune"),
        metavar="DIR",
        help="for the slim checkpoint, cfgs.json, result.json and, of a global search, pareto.png",
    )
    group.add_argument(
        "--db",
        type=plain_text,
        metavar="URL",
        help="database: a file or an SQLAlchemy URL (default: OUTPUT_DIR/prune.db)",
    )
    group.add_argument("--study", type=plain_text, metavar="NAME", help="name of the study (default: prune-SCHEDULE)")
    return parser


def add_mending_images(group: Any) -> None:
    """`--mend_images` and `--mend_augment`."""
    group.add_argument(
        "--mend_images",
        type=COUNT_OR_NONE.parse,
        default=2000,
        metavar="N",
        help="training images to mend with, whose tokens are kept; 0: all",
    )
    group.add_argument(
        "--mend_augment",
        choices=AUGMENTATIONS,
        default="detr",
        help="how all training images change, over and over, to mend with where the backbone is cut "
        "(default: detr; flips also turns them upside down and swaps colours)",
    )


def global_options(args: argparse.Namespace, grain: int) -> GlobalOptions:
    """The global schedule that the arguments describe; see `schedule_options`.

    Raises:
        UserError: a value out of range, or two budgets.
    """
    budgets = {cost: getattr(args, f"target_{cost}") for cost in COSTS}
    given = [cost for cost, budget in budgets.items() if budget is not None]
    if len(given) > 1:
        raise UserError(f"--target_{given[0]} and --target_{given[1]} are two budgets; give one of them")
    if given and args.cost not in (None, given[0]):
        raise UserError(f"--target_{given[0]} and --cost {args.cost} name two costs; leave out --cost")
    cost = given[0] if given else args.cost or "flops"
    map_tol = 0.02 if args.map_tol is None else args.map_tol
    return GlobalOptions(
        map_tol=map_tol,
        budget=budgets[cost],
        cost=cost,
        skip_eval_converge=map_tol if args.skip_eval_converge is None else args.skip_eval_converge,
        rounds=(0 if args.mend_steps and args.mends else 6) if args.rounds is None else args.rounds,
        attn_step=args.attn_step * grain,
        ffn_step=args.ffn_step,
        conv_step=args.conv_step,
        scorer=args.scorer or "basis",
        refit=args.refit,
        mend_steps=args.mend_steps,
        mends=args.mends,
        seed=args.seed,
        pareto=args.pareto,
        refine=args.refine,
        sampler=args.sampler,
    )


def schedule_options(args: argparse.Namespace, grain: int) -> ScheduleOptions:
    """The schedule that the arguments describe.

    Args:
        args: parsed arguments.
        grain: channels of an attention site's step for each of `--attn_step`, which counts channels of one head, or
            whole heads.

    Raises:
        UserError: a value out of range.
    """
    kinds = {}
    for part, step in (("attn", args.attn_step * grain), ("ffn", args.ffn_step)):
        values: dict[str, Any] = {}
        for name, (_, attn, ffn, _) in _OF_KIND.items():
            given = [getattr(args, f"{part}.{name}"), getattr(args, name), attn if part == "attn" else ffn]
            values[name] = next((value for value in given if value is not None), None)
        if values["skip_eval_converge"] is None:
            values["skip_eval_converge"] = values["map_tol"] if args.schedule == "gp" else 0.0
        kinds[part] = KindOptions(**values, step=step)
    return ScheduleOptions(args.schedule, kinds["attn"], kinds["ffn"], args.site_decay, args.seed)
