"""The front of a search: its trials of which none is both cheaper and better."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from rich.table import Table
from rich.text import Text

from greedyprune.report.console import add_columns, count
from greedyprune.search.cost import COUNTED
from greedyprune.study.trial import Baseline, Trial
from greedyprune.text import printable


class Price(Protocol):
    """What models cost; `Saving` of a search is one."""

    @property
    def kind(self) -> str:
        """`flops`, `params` or `latency`."""
        ...

    @property
    def dense(self) -> float:
        """Cost of the dense model."""
        ...

    def share_with(self, widths: Mapping[str, int]) -> float:
        """Cost of the whole model with some widths, as a share of the dense one's."""
        ...


@dataclass(frozen=True)
class Axis:
    """What cost is counted in.

    Attributes:
        name: of the quantity.
        format: a cost with its unit.
        note: what must be known of it.
    """

    name: str
    format: Callable[[float], str]
    note: str = ""


AXES = {
    "flops": Axis("multiply-adds", count, ", deployed form"),
    "params": Axis("parameters", count),
    "latency": Axis("time", lambda ms: f"{ms:.4g} ms", " for a batch, the sites' own measured times added up"),
}


def axes() -> dict[str, Axis]:
    """How every cost is written that is known now, by name."""
    return AXES | {name: Axis(each.label, each.format) for name, each in COUNTED.items()}


@dataclass(frozen=True)
class Point:
    """A model that was measured.

    Attributes:
        trial: its number in the study; None: the dense model.
        phase: the name of the phase that proposed it; None: the dense model.
        cost: of the whole model, in the unit of the axis.
        ap: AP on all validation images.
    """

    trial: int | None
    phase: str | None
    cost: float
    ap: float


@dataclass(frozen=True)
class Front:
    """What a search measured, and the best of it for every budget.

    Attributes:
        points: the dense model, then every trial that was evaluated on all images, in order.
        best: those of them of which no other is both cheaper and at least as good, cheapest first.
        kind: what cost is counted in: `flops`, `params` or `latency`.
    """

    points: Sequence[Point]
    best: Sequence[Point]
    kind: str

    @classmethod
    def of(cls, trials: Sequence[Trial], baseline: Baseline, price: Price) -> "Front":
        """The front of the trials of a search, in order."""
        points = [Point(None, None, price.dense, baseline.full_map)]
        for number, trial in enumerate(trials):
            if trial.full_map is not None:
                cost = price.share_with(trial.widths) * price.dense
                points.append(Point(number, trial.phase, cost, trial.full_map))
        best: list[Point] = []
        for point in sorted(points, key=lambda each: (each.cost, -each.ap)):
            if not best or point.ap > best[-1].ap:
                best.append(point)
        return cls(points, best, price.kind)

    @property
    def axis(self) -> Axis:
        """How costs are written."""
        return axes()[self.kind]

    @property
    def dense(self) -> Point:
        """The dense model."""
        return self.points[0]

    def to_json(self) -> dict[str, Any]:
        """Every point with its numbers, and which of them are the front."""
        points = [asdict(point) | {"front": point in self.best} for point in self.points]
        return {"kind": self.kind, "points": points}

    def table(self) -> Table:
        """The trials of the front, by the numbers that `transplant --trial` takes."""
        table = Table(title="front", title_justify="left")
        add_columns(table, "trial", self.axis.name, "of dense", "AP", "change")
        for point in self.best:
            name = "dense" if point.phase is None else f"{point.trial} {printable(point.phase)}"
            share, change = f"{point.cost / self.dense.cost:.1%}", f"{point.ap - self.dense.ap:+.4f}"
            table.add_row(Text(name), self.axis.format(point.cost), share, f"{point.ap:.4f}", change)
        return table
