"""AP against what a detector costs, a line for every method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from greedyprune.comparison.row import DENSE, Row

SIZE, DPI = (8.0, 5.2), 100  # inches, and pixels of each
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#009988", "#bbbbbb", "#332288")
MARKERS = "os^Dv<>pXP"


@dataclass(frozen=True)
class Axis:
    """What AP is drawn against.

    Attributes:
        name: for files.
        label: below the plot.
        value: of a row.
    """

    name: str
    label: str
    value: Callable[[Row], float]


def axes_of(rows: Sequence[Row]) -> list[Axis]:
    """What was measured of every row."""
    found = [
        Axis("amount", "amount asked of the method (a share, or layers)", lambda row: row.amount),
        Axis("multiply_adds", "multiply-adds of an image, in millions", lambda row: row.final.cost.flops / 1e6),
        Axis("file", "size of the file, in MB", lambda row: row.sizes.file / 1e6),
    ]
    for label in rows[0].latency:
        name = "latency_" + "".join(letter if letter.isalnum() else "_" for letter in label)
        found.append(Axis(name, f"time of a forward pass, in ms ({label})", _median(label)))
    return found


def _median(label: str) -> Callable[[Row], float]:
    return lambda row: row.latency[label].median


def draw(rows: Sequence[Row], axis: Axis) -> Figure:
    """AP against one axis: full lines in the end, dashed ones right after pruning."""
    with matplotlib.style.context("default"):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        plot = figure.add_subplot()
        dense = next(row for row in rows if row.name == DENSE)
        plot.axhline(dense.pruned.accuracy["AP"], color="0.6", linewidth=1, zorder=1)
        methods = list(dict.fromkeys(row.method for row in rows if row.method))
        for number, method in enumerate(methods):
            own = sorted((row for row in rows if row.method == method), key=axis.value)
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 6}
            x = [axis.value(row) for row in own]
            if any(row.retrained for row in own):
                before = [row.pruned.accuracy["AP"] for row in own]
                plot.plot(x, before, linestyle="--", linewidth=1.2, markerfacecolor="white", alpha=0.8, **style)
            plot.plot(x, [row.final.accuracy["AP"] for row in own], linewidth=1.8, label=method, **style)
        if axis.name != "amount":
            at = axis.value(dense), dense.pruned.accuracy["AP"]
            plot.plot(*at, marker="*", markersize=14, color="black", linestyle="none", label="dense")
        plot.set_ylim(bottom=0)
        plot.set_xlabel(axis.label, parse_math=False)
        plot.set_ylabel("AP" + (" (dashed: before retraining)" if any(row.retrained for row in rows) else ""))
        plot.grid(color="0.92")
        plot.set_axisbelow(True)
        plot.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", frameon=False)
        return figure


def picture(figure: Figure, kind: str) -> bytes:
    """A drawing as a file of a kind, `png` or `svg`."""
    file = BytesIO()
    with matplotlib.style.context("default"), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "plot"}):
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()
