"""Tables for people, and the same rows as plain objects."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from greedyprune.evaluation.ap import AP_NAMES, AR_NAMES
from greedyprune.evaluation.metrics import COCO, METRICS
from greedyprune.evaluation.result import Costs, EvalResult
from greedyprune.report.console import add_columns, count, milliseconds, number, open_console
from greedyprune.report.result import Summary
from greedyprune.search.cost import COUNTED
from greedyprune.sites import Site, Widths
from greedyprune.text import printable

_BESIDE = 12  # cells that the frame and an AP take beside the name of a class
# From what a search saves to what a table calls it.
_QUANTITIES = {"params": "parameters", "flops": "multiply-adds", "latency": "time for a batch"}
_FORMATS: dict[str, Callable[[float], str]] = {
    "parameters": count,
    "multiply-adds": count,
    "time for a batch": milliseconds,
    "latency, median": milliseconds,
}


@dataclass(frozen=True)
class SiteRow:
    """What a search left of a site.

    Attributes:
        site: its name.
        full: its dense width.
        kept: the width that is left; 0: it is gone.
    """

    site: str
    full: int
    kept: int

    @property
    def share(self) -> float:
        """What is kept of the full width."""
        return self.kept / self.full

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"share": self.share}


@dataclass(frozen=True)
class ComparedRow:
    """A number before and after.

    Attributes:
        quantity: `parameters`, `multiply-adds`, `latency, median`, `time for a batch`, or the name of a score.
        of: what part of the detector it is of: a measured part's label, `sites`; empty: all of it.
        dense: before.
        slim: after.
    """

    quantity: str
    of: str
    dense: float
    slim: float

    @property
    def change(self) -> float | None:
        """Of a cost the share that came or went, of a score the difference; None: there is none to tell."""
        if self.quantity in _FORMATS:
            return self.slim / self.dense - 1 if self.dense else None
        return None if -1 in (self.dense, self.slim) else self.slim - self.dense

    def cells(self) -> tuple[str, str, str]:
        """Before, after and the change, in words."""
        formats = _FORMATS | {each.label: each.format for each in COUNTED.values()}
        cost = self.quantity in formats
        written = formats.get(self.quantity, number)
        change = "-" if self.change is None else f"{self.change:+.1%}" if cost else f"{self.change:+.4f}"
        return written(self.dense), written(self.slim), change

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"change": self.change}


def site_rows(sites: Sequence[Site], widths: Widths) -> list[SiteRow]:
    """What is left of every site, front to back.

    What is inside a layer that is gone is left out, and so is a layer that stays where sites inside it say so.

    Args:
        sites: those that were searched.
        widths: of each; one that is not named is dense.
    """
    rows = {site.name: SiteRow(site.name, site.full, widths.get(site.name, site.full)) for site in sites}
    inside = {site.name: site.inside for site in sites if site.inside}
    holders = set(inside.values())

    def lost(name: str) -> bool:
        holder = rows.get(inside.get(name, name))
        return holder is not None and holder.site != name and (holder.kept == 0 or lost(holder.site))

    def shown(row: SiteRow) -> bool:
        stays = row.site in holders and row.kept == row.full == 1
        return not stays and not lost(row.site)

    return [row for row in rows.values() if shown(row)]


def site_table(sites: Sequence[Site], widths: Widths) -> Table:
    """Per site its dense width, what it keeps, and the share; see `site_rows`."""
    table = Table(title="sites", title_justify="left")
    add_columns(table, "site", "dense", "kept", "share")
    for row in site_rows(sites, widths):
        kept = str(row.kept) if row.kept else "gone"
        table.add_row(_text(row.site), str(row.full), kept, f"{row.share:.0%}")
    return table


def compared_rows(summary: Summary) -> list[ComparedRow]:
    """Parameters, multiply-adds, latency where it was measured, and the metric's numbers, before and after."""
    dense, slim, sites = summary.dense, summary.slim, summary.sites
    costs: list[tuple[str, Callable[[Costs], float | None]]] = [
        ("parameters", lambda cost: cost.params),
        ("multiply-adds", lambda cost: cost.flops),
        ("latency, median", lambda cost: None if cost.latency is None else cost.latency.median),
    ]
    labels = _QUANTITIES | {name: each.label for name, each in COUNTED.items()}
    saved = ComparedRow(labels[sites.kind], "sites", sites.dense, sites.slim)
    rows = []
    for quantity, of in costs:
        for part, before, after in _parts(dense, slim):
            was, now = of(before), of(after)
            if was is not None and now is not None:
                rows.append(ComparedRow(quantity, part, was, now))
        if quantity == saved.quantity:
            rows.append(saved)
    if saved not in rows:
        rows.append(saved)
    rows += [ComparedRow(name, "", ap, slim.accuracy[name]) for name, ap in dense.accuracy.items()]
    return rows


def _parts(dense: EvalResult, slim: EvalResult) -> Iterator[tuple[str, Costs, Costs]]:
    yield "", dense.cost, slim.cost
    for label, cost in dense.parts.items():
        yield label, cost, slim.parts[label]


def comparison_table(summary: Summary) -> Table:
    """What a search changed: see `compared_rows`."""
    height, width = summary.slim.image_size
    table = Table(
        title="before and after",
        title_justify="left",
        caption=f"multiply-adds of an image of {width} x {height} in the deployed form, dense and slim alike; "
        f"{_by(summary.slim)}",
        caption_justify="left",
    )
    add_columns(table, "", "dense", "slim", "change")
    above = ""
    for row in compared_rows(summary):
        name = f"  of the {row.of}" if row.of and above == row.quantity else row.quantity
        if row.of and above != row.quantity:
            name = f"{row.quantity}, {row.of}"
        table.add_row(_text(name), *row.cells())
        above = row.quantity
    return table


def _images(result: EvalResult) -> str:
    chosen = "" if result.image_seed is None else f" chosen with seed {result.image_seed}"
    return f"{result.images} images{chosen}"


def _by(result: EvalResult) -> str:
    """What accuracy is counted by, and on what."""
    return f"{METRICS[result.metric].title}, {_images(result)}"


def print_evaluation(result: EvalResult) -> None:
    """Accuracy, the AP of every class, and cost, as tables on stdout, each under what it was measured on."""
    console = open_console(sys.stdout)
    console.print(_by(result), accuracy_table(result), sep="\n")
    per_class = class_scores_table(result) if result.class_scores else class_table(result, console.width)
    console.print("AP of every class", per_class, sep="\n")
    height, width = result.image_size
    threads = f", {result.threads} thread{'s' if result.threads > 1 else ''}"
    where = printable(result.device, None) + (threads if result.device == "cpu" else "")
    about = f"Cost of an image of {width} x {height}, {result.dtype} on {where}; multiply-adds and time deployed"
    console.print(about, cost_table(result), sep="\n")


def accuracy_table(result: EvalResult) -> Table:
    """The twelve COCO numbers, or those of another metric, one below the other."""
    table = Table()
    if result.metric != COCO:
        add_columns(table, "precision", "")
        for name, score in result.accuracy.items():
            table.add_row(name, number(score))
        return table
    for column in ("precision", "", "recall", ""):
        table.add_column(column, justify="left" if column else "right")
    for precision, recall in zip(AP_NAMES, AR_NAMES, strict=True):
        table.add_row(precision, number(result.accuracy[precision]), recall, number(result.accuracy[recall]))
    return table


def class_scores_table(result: EvalResult) -> Table:
    """All scores of a class, a line for each score and a column for each class."""
    table = Table()
    add_columns(table, "", *(printable(name, None) for name in result.class_scores))
    for score in next(iter(result.class_scores.values())):
        table.add_row(score, *(number(of[score]) for of in result.class_scores.values()))
    return table


def class_table(result: EvalResult, width: int = 80) -> Table:
    """The AP of every class, a line for each, in as many columns as fit.

    Args:
        result: of the evaluation.
        width: cells of a line, in which longer names are cut.
    """
    table = Table()
    cells = [(_text(name), number(ap)) for name, ap in result.per_class.items()]
    longest = min(max([5, *(cell_len(name.plain) for name, _ in cells)]), max(5, width - _BESIDE - 1))
    columns = max(1, min(3, len(cells), (width - 1) // (longest + _BESIDE)))
    for _ in range(columns):
        table.add_column("class", width=longest, no_wrap=True, overflow="ellipsis")
        table.add_column("AP", justify="right")
    for start in range(0, len(cells), columns):
        table.add_row(*(cell for pair in cells[start : start + columns] for cell in pair))
    return table


def cost_table(result: EvalResult) -> Table:
    """Parameters, multiply-adds and latency of the whole model and of its measured parts."""
    table = Table()
    add_columns(table, "", "model", *(printable(label, None) for label in result.parts))
    costs: Mapping[str, Callable[[Costs], str]] = {
        "parameters": lambda cost: count(cost.params),
        "multiply-adds": lambda cost: count(cost.flops),
        "latency, median": lambda cost: "" if cost.latency is None else milliseconds(cost.latency.median),
        "latency, 95th percentile": lambda cost: "" if cost.latency is None else milliseconds(cost.latency.p95),
    }
    for name, cell in costs.items():
        row = [cell(cost) for cost in (result.cost, *result.parts.values())]
        if any(row):
            table.add_row(name, *row)
    return table


def _text(name: str) -> Text:
    """A name as it is, on one line, whatever a console makes of markup."""
    return Text(printable(name, None))
