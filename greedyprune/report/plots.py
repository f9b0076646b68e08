"""AP against cost as a picture: every trial a point, the front a line."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike

from greedyprune.files import atomic_write
from greedyprune.report.front import Front, Point
from greedyprune.search.phases import PHASES, Phase
from greedyprune.text import printable

SIZE = 1200, 800  # pixels of a picture
DPI = 100
DOT = 8.5  # points across
NEARLY = 0.95  # of the dense AP: what reaches it is enlarged where that is small
INSET = (0.44, 0.09, 0.55, 0.52)  # left, bottom, width and height of the enlargement, as shares of the plot
NEAR = 7  # points between the middle of a dot and its number
CORNERS = ((1, -1), (-1, 1), (1, 1), (-1, -1))  # where a number may stand beside its dot, in order of preference
DENSE, LINE, TARGET = "black", "0.35", "tab:gray"


def write_front(
    front: Front,
    path: Path,
    target: float | None = None,
    title: str = "",
    phases: Mapping[str, type[Phase]] = PHASES,
) -> None:
    """Draw a front into a PNG of `SIZE`.

    Args:
        front: what was measured.
        path: the file.
        target: AP that was to be held; None: there is no such line.
        title: any text.
        phases: by name; they know the colours and labels of their trials.
    """
    file = BytesIO()
    with _own_style():
        figure = draw_front(front, target, title, phases)
        figure.savefig(file, format="png", dpi=DPI)
    atomic_write(path, file.getvalue())


def draw_front(front: Front, target: float | None, title: str, phases: Mapping[str, type[Phase]]) -> Figure:
    """AP against cost; see `write_front`.

    Raises:
        ValueError: a trial is of no such phase.
    """
    if unknown := {point.phase for point in front.points} - {None, *phases}:
        raise ValueError(f"no phase is called {', '.join(map(repr, sorted(map(str, unknown))))}")
    figure = Figure(figsize=(SIZE[0] / DPI, SIZE[1] / DPI), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _label(axes, front, title)
    _legend(figure, *_draw(axes, front, target, phases))
    zoomed = _zoomed(axes, front, target)
    inset: Axes | None = None
    if zoomed is not None:
        inset = axes.inset_axes(INSET, xlim=zoomed.intervalx, ylim=zoomed.intervaly)
        _draw(inset, front, target, phases)
        inset.xaxis.set_major_formatter(axes.xaxis.get_major_formatter())
        axes.indicate_inset_zoom(inset, edgecolor="0.5")
    canvas.draw()  # settles where everything is
    seen = [] if zoomed is None else [point for point in front.best if zoomed.contains(point.cost, point.ap)]
    _number(axes, front, [point for point in front.best if point not in seen])
    if inset is not None:
        _number(inset, front, seen)
    return figure


@contextmanager
def _own_style() -> Iterator[None]:
    """Matplotlib as it comes, whatever the user has set, which holds again afterwards."""
    with matplotlib.style.context("default"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # such a letter is drawn as a box
        yield


def _label(axes: Axes, front: Front, title: str) -> None:
    axis, dense = front.axis, front.dense.cost
    axes.set_title(printable(title) if title else "", parse_math=False, fontsize=14, pad=12)
    axes.set_xlabel(f"{axis.name} of the whole model{axis.note}", parse_math=False, fontsize=12, labelpad=8)
    axes.set_ylabel("AP on all validation images", fontsize=12, labelpad=8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: axis.format(cost).replace(".00", "")))
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.06)
    shares = axes.secondary_xaxis("top", functions=(_scaled(1 / dense), _scaled(dense)))
    shares.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g} %"))
    shares.tick_params(labelsize=11, length=0, labelcolor="0.4")
    shares.spines["top"].set_visible(False)
    shares.set_xlabel("of what the dense model costs", fontsize=11, color="0.4")


def _scaled(factor: float) -> Callable[[ArrayLike], ArrayLike]:
    return lambda values: np.asarray(values, dtype=np.float64) * factor


def _draw(
    axes: Axes, front: Front, target: float | None, phases: Mapping[str, type[Phase]]
) -> tuple[list[Line2D], list[str]]:
    """Everything that has a place in the plane; it comes back with what a legend calls it."""
    axes.tick_params(labelsize=11)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    handles: list[Line2D] = []
    labels: list[str] = []
    for name, phase in phases.items():
        points = [point for point in front.points if point.phase == name]
        if points:
            handles.append(_dots(axes, points, phase.colour, "o"))
            labels.append(phase.label)
    handles.append(_dots(axes, [front.dense], DENSE, "D"))
    labels.append("dense")
    costs, aps = [point.cost for point in front.best], [point.ap for point in front.best]
    # Between two points the cheaper one is all there is.
    handles += axes.plot(costs, aps, color=LINE, linewidth=1.5, drawstyle="steps-post", zorder=2)
    labels.append("front")
    if target is not None:
        handles.append(axes.axhline(target, color=TARGET, linewidth=1.5, linestyle="--", zorder=1))
        labels.append(f"target {target:.4f}")
    return handles, labels


def _dots(axes: Axes, points: Sequence[Point], colour: str, marker: str) -> Line2D:
    costs, aps = [point.cost for point in points], [point.ap for point in points]
    (line,) = axes.plot(
        costs, aps, marker, color=colour, markersize=DOT, markeredgecolor="white", markeredgewidth=0.8, zorder=3
    )
    return line


def _legend(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str]) -> None:
    numbers = [str(number) for number in range(len(labels))]
    legend = figure.legend(handles, numbers, fontsize=12, frameon=False, loc="outside right upper")
    # Set afterwards: a legend would leave out labels that begin with `_`, and read `$` as mathematics.
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_parse_math(False)
        text.set_text(printable(label, 30))


def _zoomed(axes: Axes, front: Front, target: float | None) -> Bbox | None:
    """What is shown once more, enlarged, in the corner that good fronts leave empty: all that is nearly dense.

    None: it is large enough as it is, or the corner is not empty.
    """
    good = [point for point in front.points if point.ap >= NEARLY * front.dense.ap]
    heights = [point.ap for point in good] + ([] if target is None else [target])
    bottom, top = axes.get_ylim()
    if len(good) < 3 or max(heights) - min(heights) > (top - bottom) / 3:
        return None
    corner = axes.transAxes.transform_bbox(Bbox.from_bounds(*INSET)).transformed(axes.transData.inverted())
    reached = [point.ap for point in front.best if point.cost <= corner.x0 - (corner.width / 5)]
    if not reached or max(reached) < corner.y1 or any(corner.contains(point.cost, point.ap) for point in front.points):
        return None
    costs = [point.cost for point in good]
    box = Bbox.from_extents(min(costs), min(heights), max(costs), max(heights))
    return box.expanded(1.1, 1.25)


def _number(axes: Axes, front: Front, points: Sequence[Point]) -> None:
    """Write the numbers of trials beside their dots, each where it hides no dot and no other number."""
    taken = [_around(axes, point) for point in front.points]
    inside = axes.get_window_extent()
    for point in points:
        text = "dense" if point.trial is None else str(point.trial)
        for x, y in CORNERS:
            note = _note(axes, point, text, x, y)
            box = note.get_window_extent()
            fits = inside.containsx(box.x0) and inside.containsx(box.x1) and inside.containsy(box.y0)
            if fits and inside.containsy(box.y1) and not box.count_overlaps(taken):
                taken.append(box)
                break
            note.remove()


def _note(axes: Axes, point: Point, text: str, x: int, y: int) -> Annotation:
    note = axes.annotate(
        text,
        (point.cost, point.ap),
        (x * NEAR, y * NEAR),
        textcoords="offset points",
        ha="left" if x > 0 else "right",
        va="bottom" if y > 0 else "top",
        fontsize=11,
        color="0.2",
        zorder=4,
    )
    note.set_in_layout(False)
    return note


def _around(axes: Axes, point: Point) -> Bbox:
    """The pixels of a dot."""
    x, y = axes.transData.transform((point.cost, point.ap))
    radius = DOT / 2 * DPI / 72
    return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)
