"""The command line of a search, and the options that it says."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from greedyprune.cli import (
    Parser,
    add_cache_argument,
    add_data_arguments,
    add_device_arguments,
    add_model_arguments,
)
from greedyprune.commands.flags import add_flags, from_flags
from greedyprune.errors import UserError
from greedyprune.ranges import COUNT_OR_NONE
from greedyprune.search.cost import COUNTED
from greedyprune.search.options import BUDGET, COSTS, GrowthOptions, SearchOptions
from greedyprune.text import file_path, plain_text

_NAMES = {"flops": "multiply-adds", "params": "parameters", "latency": "measured latency"}
_GENERAL = ("map_tol", "skip_eval_converge", "num_evaluate")  # of all sites, where no kind has its own


def parser(schedule: str) -> argparse.ArgumentParser:
    """The options of a search; what was not given is None.

    Args:
        schedule: the tool's own default.
    """
    parser = Parser(
        "Search the smallest width of every site that holds the AP you ask for. Every trial is in the database: "
        "stop at any moment, and the same command goes on."
    )
    add_model_arguments(parser)
    group = parser.add_argument_group("what is asked for")
    add_flags(group, SearchOptions, only=("map_tol", "metric"), unset=True)
    names = _NAMES | {name: each.label for name, each in COUNTED.items()}
    for cost in COSTS:
        group.add_argument(
            f"--target_{cost}",
            type=BUDGET.parse,
            metavar="SHARE",
            help=f"the best AP with this share of the dense model's {names[cost]}, instead of the least for --map_tol",
        )
    add_flags(group, SearchOptions, only=("cost",), unset=True, defaults={"cost": "flops, or that of --target_..."})
    group.add_argument(
        "--prune",
        nargs="+",
        type=plain_text,
        metavar="PART",
        help="parts whose widths are searched: transformer (the default), backbone, all, or some of encoder, decoder, "
        "heads, queries, layers, backbone",
    )
    add_data_arguments(parser, batch_size=SearchOptions.batch_size)
    group = parser.add_argument_group("state and output")
    group.add_argument(
        "--output_dir",
        type=file_path,
        default=Path("runs/prune"),
        metavar="DIR",
        help="for the slim checkpoint, cfgs.json, result.json and, of a global search, pareto.png",
    )
    group.add_argument(
        "--db", type=plain_text, metavar="URL", help="a file or an SQLAlchemy URL (default: OUTPUT_DIR/prune.db)"
    )
    group.add_argument(
        "--study", type=plain_text, metavar="NAME", help="name of the study there (default: prune-SCHEDULE)"
    )
    group = parser.add_argument_group("what is tried")
    add_flags(group, SearchOptions, only=("schedule",), unset=True, defaults={"schedule": schedule})
    own = {"scorer": "basis; gp, modular: exact", "skip_eval_converge": "map_tol; modular: 0", "rounds": "0"}
    add_flags(group, SearchOptions, only=("scorer", "refit", "rounds", "mend"), unset=True, defaults=own)
    group.add_argument(
        "--pareto",
        type=COUNT_OR_NONE.parse,
        nargs="?",
        const=8,
        metavar="N",
        help="after the search, evaluate widths for N budgets (8 without N) that spread over all there are: one search "
        "answers for every budget. A finished study goes on with it",
    )
    add_flags(group, SearchOptions, only=("refine", "sampler", "skip_eval_converge", "seed"), unset=True, defaults=own)
    group = parser.add_argument_group("steps of widths (default: each site's own)")
    group.add_argument(
        "--whole_heads",
        action="store_true",
        default=None,
        help="attention leaves head by head, and a head that stays keeps all its channels",
    )
    add_flags(group, SearchOptions, only=("steps",), unset=True)
    group = parser.add_argument_group("images")
    add_flags(group, SearchOptions, only=("images",), unset=True)
    add_cache_argument(group)
    group = parser.add_argument_group("the published schedules, gp and modular")
    group.add_argument(
        "--num_evaluate",
        type=COUNT_OR_NONE.parse,
        metavar="N",
        help="candidates scored in a round, channels or whole heads, drawn; 0: all (default: 32 for attention, 96 for "
        "FFN)",
    )
    add_flags(group, SearchOptions, only=("site_decay", "attn", "ffn"), unset=True)
    group.add_argument("-m", "--model", type=plain_text, metavar="NAME", help="refuse a checkpoint of another model")
    add_device_arguments(parser)
    return parser


def search_options(args: argparse.Namespace, schedule: str) -> SearchOptions:
    """The options that parsed arguments say.

    Args:
        args: parsed arguments.
        schedule: the tool's own default.

    Raises:
        UserError: two budgets, or a budget and another cost.
    """
    budgets = {cost: getattr(args, f"target_{cost}") for cost in COSTS}
    given = [cost for cost, budget in budgets.items() if budget is not None]
    if len(given) > 1:
        raise UserError(f"--target_{given[0]} and --target_{given[1]} are two budgets; give one of them")
    if given and args.cost not in (None, given[0]):
        raise UserError(f"--target_{given[0]} and --cost {args.cost} name two costs; leave out --cost")
    cost = given[0] if given else args.cost or "flops"
    options = from_flags(SearchOptions, args, cost=cost, budget=budgets[cost], schedule=args.schedule or schedule)
    if not options.published:
        return options
    kinds: dict[str, Any] = {}
    for kind in ("attn", "ffn"):
        general = {name: getattr(args, name) for name in _GENERAL if getattr(args, f"{kind}.{name}") is None}
        own: GrowthOptions = getattr(options, kind)
        kinds[kind] = replace(own, **{name: value for name, value in general.items() if value is not None})
    return replace(options, scorer=args.scorer or "exact", **kinds)
