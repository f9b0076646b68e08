"""The front of a search: its trials of which none is both cheaper and better."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from rich.table import Table

from greedyprune.files import atomic_write
from greedyprune.report import count
from greedyprune.search.picture import Axis, Point, draw_front
from greedyprune.search.record import Baseline, Proposal, Record
from greedyprune.search.saving import Saving

_AXES = {
    "flops": Axis("multiply-adds", count),
    "params": Axis("parameters", count),
    "latency": Axis("time", lambda ms: f"{ms:.4g} ms", " for a batch, the sites' own measured times added up"),
}


@dataclass(frozen=True)
class Front:
    """What a search measured, and the best of it for every budget.

    Attributes:
        points: the dense model, then every trial that was evaluated on all images, in order.
        best: those of them of which no other is both cheaper and at least as good, cheapest first.
        axis: what cost is counted in.
    """

    points: list[Point]
    best: list[Point]
    axis: Axis

    @classmethod
    def of(cls, records: Sequence[Record], baseline: Baseline, saving: Saving) -> "Front":
        """The front of the records of a global search, in order."""
        points = [Point(None, "dense", saving.dense, baseline.full_map)]
        for number, record in enumerate(records):
            if record.full_map is not None and isinstance(record.origin, Proposal):
                cost = saving.share_with(record.widths) * saving.dense
                points.append(Point(number, record.origin.phase, cost, record.full_map))
        best: list[Point] = []
        for point in sorted(points, key=lambda each: (each.cost, -each.ap)):
            if not best or point.ap > best[-1].ap:
                best.append(point)
        return cls(points, best, _AXES[saving.kind])

    def write(self, path: Path, target: float | None) -> None:
        """Draw it into a PNG.

        Args:
            path: the file.
            target: AP that was to be held; None: a budget was given instead.
        """
        file = BytesIO()
        draw_front(self.points, self.best, self.axis, target).save(file, "PNG")
        atomic_write(path, file.getvalue())

    def table(self) -> Table:
        """The trials of the front, by the numbers that `tools/transplant.py --trial` takes."""
        table = Table(title="front", title_justify="left")
        table.add_column("trial")
        for column in (self.axis.name, "of dense", "AP", "change"):
            table.add_column(column, justify="right")
        dense = self.points[0]
        for point in self.best:
            name = "dense" if point.trial is None else f"{point.trial} {point.phase}"
            cost, change = f"{point.cost / dense.cost:.1%}", f"{point.ap - dense.ap:+.4f}"
            table.add_row(name, self.axis.format(point.cost), cost, f"{point.ap:.4f}", change)
        return table
