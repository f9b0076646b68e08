"""`tools/study.py`: methods of pruning compared on one detector, as tables, plots and a page."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from greedyprune.cli import Parser, add_data_arguments, add_device_arguments, add_model_arguments, open_model
from greedyprune.commands.datasets import open_dataset
from greedyprune.commands.flags import add_flags, from_flags
from greedyprune.comparison.arms import parse_arms
from greedyprune.comparison.options import AUGMENT, ComparisonOptions
from greedyprune.comparison.page import page
from greedyprune.comparison.plots import axes_of, draw, picture
from greedyprune.comparison.record import Record
from greedyprune.comparison.row import DENSE, Row
from greedyprune.comparison.run import Comparison, Data
from greedyprune.comparison.table import comma_separated, markdown, terminal_table
from greedyprune.data.transforms import form_transform
from greedyprune.entry import again
from greedyprune.errors import UserError
from greedyprune.families import family_of
from greedyprune.files import atomic_write
from greedyprune.report.console import open_console
from greedyprune.text import file_path, plain_text, printable
from greedyprune.training import Stopped

METHODS = "filter_l1:0.1..0.5,weight:0.5..0.9,closed_form:0.1..0.5"
_SHARED = ("batch_size", "amp")


def parser() -> argparse.ArgumentParser:
    """The options of `tools/study.py`."""
    parser = Parser(
        "Compare methods of pruning on one detector: each at several amounts, before and after retraining, with what "
        "it costs. The same command again goes on where it was; with more --methods it adds to what is there."
    )
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--methods",
        type=plain_text,
        default=METHODS,
        metavar="LIST",
        help="NAME:AMOUNT or NAME:FROM..TO or NAME:FROM..TO/STEP, separated by commas; see docs/STUDY.md",
    )
    add_flags(group, ComparisonOptions, leave_out=_SHARED)
    add_model_arguments(parser)
    parser.add_argument("--whole_heads", action="store_true", help="the checkpoint was pruned by whole heads")
    add_data_arguments(parser, ComparisonOptions.batch_size)
    add_device_arguments(parser)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output_dir", type=file_path, default=Path("runs/study"), metavar="DIR", help="folder for all that is written"
    )
    group.add_argument(
        "--db", type=plain_text, metavar="DB", help="a file or a SQLAlchemy URL (default: OUTPUT_DIR/study.db)"
    )
    group.add_argument("--study", type=plain_text, default="comparison", metavar="NAME", help="its name there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write the report.

    Raises:
        UserError: the model, the data, the database or a method cannot be used.
    """
    args = parser().parse_args(argv)
    arms = parse_arms(args.methods)
    options = from_flags(ComparisonOptions, args)
    model = open_model(args)
    family = family_of(model)
    if not family.is_dense(model):
        raise UserError(f"checkpoint {args.resume} is slim already; compare methods on the dense detector")
    augmented = form_transform(family.form(model), AUGMENT)
    data = Data(
        open_dataset(args, model, "train"),
        open_dataset(args, model, "train", augmented),
        open_dataset(args, model, "val"),
    )
    folder: Path = args.output_dir
    comparison = Comparison(model, data, options, folder, _say, args.num_workers)
    command = shlex.join([*again(), *(sys.argv[1:] if argv is None else argv)])
    folder.mkdir(parents=True, exist_ok=True)
    with Record.open(
        str(folder / "study.db") if args.db is None else args.db, args.study, comparison.settings
    ) as record:
        try:
            rows = comparison.run(arms, record)
        except (KeyboardInterrupt, Stopped):
            raise KeyboardInterrupt(f"every finished row is in the database; go on with: {command}") from None
    _write(folder, rows, comparison, _about(args, options, rows))
    open_console().print(terminal_table(rows))
    print(f"the page is {printable(str(folder / 'report.html'), None)}; beside it report.md, report.csv and plots")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _about(args: argparse.Namespace, options: ComparisonOptions, rows: Sequence[Row]) -> str:
    dense = next(row for row in rows if row.name == DENSE).pruned
    height, width = dense.image_size
    epochs = f"retrained for {options.retrain_epochs} epochs" if options.retrain_epochs else "not retrained"
    return (
        f"{Path(args.resume).name}, {dense.images} validation images, {epochs}; multiply-adds and time of the deployed "
        f"form for images of {width} x {height} on {dense.device}, {dense.threads} threads"
    )


def _write(folder: Path, rows: Sequence[Row], comparison: Comparison, about: str) -> None:
    atomic_write(folder / "report.md", f"{about}\n\n{markdown(rows)}")
    atomic_write(folder / "report.csv", comma_separated(rows))
    for axis in axes_of(rows):
        atomic_write(folder / f"ap_{axis.name}.png", picture(draw(rows, axis), "png"))
    title = f"Pruning methods on {comparison.family.name}"
    content = page(rows, title, about, comparison.data.val, comparison.pictured, comparison.found)
    atomic_write(folder / "report.html", content)
