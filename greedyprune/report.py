"""Tables and progress bars for people."""

import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from greedyprune.evaluation.ap import AP_NAMES, AR_NAMES
from greedyprune.evaluation.evaluate import EvalResult
from greedyprune.text import printable

_BESIDE = 12  # characters that the frame and an AP take beside the name of a class


def open_console(file: TextIO | None = None) -> Console:
    """A console that shows text as it is: no part of a name is a style, an emoji or a number to be coloured.

    Args:
        file: where it writes; None: stdout.
    """
    return Console(file=file, markup=False, emoji=False, highlight=False)


def number(value: float, digits: int = 4) -> str:
    """A score; `-` for COCO's -1, which says that there was nothing to measure on."""
    return "-" if value == -1 else f"{value:.{digits}f}"


def count(value: float) -> str:
    """A large count with a unit: 1,234 as `1.23 k`, 19,667,474 as `19.67 M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:g}"


def progress_bar(text: str, shown: bool | None = None) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """A wrapper that shows on stderr how far an iteration is.

    Args:
        text: what is going on.
        shown: None: only when stderr is a terminal.
    """
    visible = sys.stderr.isatty() if shown is None else shown

    def wrap(items: Iterable[Any]) -> Iterable[Any]:
        return tqdm(items, desc=text, file=sys.stderr, disable=not visible, dynamic_ncols=True, leave=False)

    return wrap


def print_evaluation(result: EvalResult) -> None:
    """Accuracy, the AP of every class, and cost, as tables on stdout, each under what it was measured on."""
    console = open_console()
    chosen = "" if result.image_seed is None else f" chosen with seed {result.image_seed}"
    console.print(f"COCO boxes, {result.images} images{chosen}", accuracy_table(result), sep="\n")
    console.print("AP of every class", class_table(result, console.width), sep="\n")
    height, width = result.image_size
    threads = f", {result.threads} thread{'s' if result.threads > 1 else ''}"
    where = result.device + (threads if result.device == "cpu" else "")
    console.print(f"Cost of an image of {width} x {height}, {result.dtype} on {where}", cost_table(result), sep="\n")


def accuracy_table(result: EvalResult) -> Table:
    """The twelve COCO numbers."""
    table = Table()
    for column in ("precision", "", "recall", ""):
        table.add_column(column, justify="left" if column else "right")
    for precision, recall in zip(AP_NAMES, AR_NAMES, strict=True):
        table.add_row(precision, number(result.accuracy[precision]), recall, number(result.accuracy[recall]))
    return table


def class_table(result: EvalResult, width: int = 80) -> Table:
    """The AP of every class, a line for each, in as many columns as fit.

    Args:
        result: of the evaluation.
        width: characters of a line, in which longer names are cut.
    """
    table = Table()
    per_class = result.accuracy["per_class"]
    cells = [cell for name, ap in per_class.items() for cell in (printable(name, None), number(ap))]
    longest = min(max([5, *map(cell_len, cells[::2])]), max(5, width - _BESIDE - 1))
    columns = max(1, min(3, len(per_class), (width - 1) // (longest + _BESIDE)))
    for _ in range(columns):
        table.add_column("class", width=longest, no_wrap=True, overflow="ellipsis")
        table.add_column("AP", justify="right")
    for start in range(0, len(cells), 2 * columns):
        table.add_row(*cells[start : start + 2 * columns])
    return table


def cost_table(result: EvalResult) -> Table:
    """Parameters, multiply-adds and latency of the whole model and of its Transformer."""
    table = Table()
    for column in ("", "model", "Transformer"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("parameters", count(result.params), count(result.transformer_params))
    table.add_row("multiply-adds", count(result.flops), count(result.transformer_flops))
    if (ms := result.latency_ms) is not None:
        table.add_row("latency, median", f"{ms['median']:.2f} ms", f"{ms['transformer_median']:.2f} ms")
        table.add_row("latency, 95th percentile", f"{ms['p95']:.2f} ms", f"{ms['transformer_p95']:.2f} ms")
    return table
