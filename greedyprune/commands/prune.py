"""`tools/prune_greedy.py` and `tools/prune_greedy_ad.py`: search the width of every site."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from greedyprune import api
from greedyprune.cli import DEMO_MODEL, open_model
from greedyprune.commands.datasets import open_dataset
from greedyprune.commands.prune_needs import Call, check_needs
from greedyprune.commands.prune_options import parser, search_options
from greedyprune.embedded import named
from greedyprune.entry import again, tool
from greedyprune.errors import UserError
from greedyprune.evaluation.metrics import COCO, METRICS
from greedyprune.families import family_of, kinds
from greedyprune.report.console import duration, open_console
from greedyprune.report.display import SearchDisplay
from greedyprune.report.plots import write_front
from greedyprune.report.tables import comparison_table, site_table
from greedyprune.search.options import SearchOptions
from greedyprune.search.setup import Resources, searched_sites
from greedyprune.sites import Site


def main(argv: Sequence[str] | None = None, schedule: str = "global") -> int:
    """Search as the arguments say, save the slim model, and print what was found.

    Args:
        argv: the command line.
        schedule: the default of `--schedule`.

    Raises:
        UserError: the model, the data or the database cannot be used, or the study belongs to another search.
    """
    args = parser(schedule).parse_args(argv)
    if args.model is not None and args.model not in kinds():
        raise UserError(f"--model {args.model!r} is unknown; choose one of {', '.join(kinds())}")
    model = open_model(args)
    family = family_of(model)
    if args.model and args.model != family.kind(model):
        raise UserError(
            f"checkpoint {args.resume} is of {family.kind(model)}, not of --model {args.model}; give another --resume"
        )
    if not family.is_dense(model):
        raise UserError(f"checkpoint {args.resume} is slim already; search on the dense model")
    options = search_options(args, schedule)
    sites = searched_sites(family, model, options)
    check_needs(Call(args, options, sites))
    study = f"prune-{options.schedule}" if args.study is None else args.study
    command = shlex.join([*again(), *(sys.argv[1:] if argv is None else argv)])
    val, train = (open_dataset(args, model, split) for split in ("val", "train"))
    with SearchDisplay(sites) as display:
        resources = Resources(args.cache_gb, args.num_workers, display.counting)
        try:
            result = api.prune(
                model,
                train,
                val,
                options,
                db=args.output_dir / "prune.db" if args.db is None else args.db,
                study=study,
                output_dir=args.output_dir,
                resources=resources,
                display=display,
                command=command,
            )
        except api.SearchLost as error:
            _draw(args, options, error.result)
            raise
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"every finished trial is in the database; go on with: {command}") from None
    if not result.added:
        print(f"study {study} is finished; this is its result", file=sys.stderr)
    _draw(args, options, result)
    _tell(args, options, sites, result)
    return 0


def _draw(args: argparse.Namespace, options: SearchOptions, result: api.Result) -> None:
    if not options.published:
        target = (1 - options.map_tol) * result.baseline.full_map if options.budget is None else None
        title = "" if options.metric == COCO else METRICS[options.metric].title
        write_front(result.front, args.output_dir / "pareto.png", target, title)


def _tell(args: argparse.Namespace, options: SearchOptions, sites: Sequence[Site], result: api.Result) -> None:
    folder: Path = args.output_dir
    summary = result.summary
    console = open_console()
    console.print(site_table(sites, result.widths))
    console.print(comparison_table(summary))
    if not options.published:
        console.print(result.front.table())
        print(f"drawn in {folder / 'pareto.png'}; {tool('transplant')} --trial N makes one of them")
    spent = summary.spent
    print(f"{spent.image_forwards:,} image forwards in {duration(spent.seconds)}; files in {folder}")
    print("fine-tune and evaluate the slim model with")
    resume = f"--resume {shlex.quote(str(result.path))}"
    teacher = "" if args.resume == DEMO_MODEL else f" {shlex.quote(named(args.resume))}"
    teacher += "" if args.key is None else f" --teacher_key {shlex.quote(args.key)}"
    print(f"    {tool('train')} {resume} --teacher{teacher}")
    metric = "" if options.metric == COCO else f" --metric {options.metric}"
    print(f"    {tool('eval')} {resume}{metric}")
    print("--cfgs")
    print(json.dumps(summary.cfgs))
