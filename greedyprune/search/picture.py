"""AP against cost as a picture: every trial a point, the front a line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from PIL import Image, ImageDraw, ImageFont

from greedyprune.text import printable

SIZE = 1000, 620  # pixels of the picture
PLOT = 90, 50, 850, 540  # left, top, right and bottom of the axes in it; the legend is to their right
FINE = 3  # everything is drawn so much larger and then shrunk, for smooth edges

_COLOURS = {
    "dense": "#000000",
    "budget": "#1f77b4",
    "move": "#2ca02c",
    "mend": "#d62728",
    "pareto": "#ff7f0e",
    "refine": "#9467bd",
}
_RADIUS = 5
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """A model that was measured.

    Attributes:
        trial: its number in the study; None: the dense model.
        phase: `dense`, or the phase of its proposal.
        cost: of the whole model, in the unit of the axis.
        ap: AP on all images.
    """

    trial: int | None
    phase: str
    cost: float
    ap: float


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


def draw_front(points: Sequence[Point], best: Sequence[Point], axis: Axis, target: float | None) -> Image.Image:
    """AP against cost.

    Args:
        points: what was measured; one or more.
        best: those that the line goes through, cheapest first; they get their trial's number where there is room.
        axis: what cost is counted in.
        target: AP of the line that says what was to be held; None: there is none.
    """
    return _Plot(points, best, axis, target).picture.resize(SIZE, Image.Resampling.LANCZOS)


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """About so many round numbers that reach from `low` or below to `high` or above."""
    high = high if high > low else low + (abs(low) / 10 or 1.0)
    rough = (high - low) / wanted
    power = 10.0 ** floor(log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    return [i * step for i in range(floor(low / step + 1e-9), ceil(high / step - 1e-9) + 1)]


class _Plot:
    def __init__(self, points: Sequence[Point], best: Sequence[Point], axis: Axis, target: float | None) -> None:
        self.picture = Image.new("RGB", (SIZE[0] * FINE, SIZE[1] * FINE), "white")
        self.canvas = ImageDraw.Draw(self.picture)
        self.font = ImageFont.load_default(size=14 * FINE)
        self.x = ticks(min(p.cost for p in points), max(p.cost for p in points))
        heights = [point.ap for point in points] + ([] if target is None else [target])
        self.y = ticks(min(heights), max(heights))
        self._axes(axis)
        if target is not None:
            _, height = self._place(self.x[0], target)
            self._dashes(height, "#888888")
        self._line([place for each in best for place in self._steps(best, each)], "#555555", 2)
        for point in points:
            self._dot(self._place(point.cost, point.ap), _COLOURS[point.phase])
        self._numbers(points, best)
        self._legend([phase for phase in _COLOURS if any(p.phase == phase for p in points)], target)

    def _place(self, cost: float, ap: float) -> tuple[float, float]:
        left, top, right, bottom = PLOT
        x = left + (cost - self.x[0]) / (self.x[-1] - self.x[0]) * (right - left)
        return x, bottom - (ap - self.y[0]) / (self.y[-1] - self.y[0]) * (bottom - top)

    def _steps(self, best: Sequence[Point], point: Point) -> list[tuple[float, float]]:
        """From the height of the point before it: between two points, the cheaper one is all there is."""
        before = best[best.index(point) - 1] if point is not best[0] else point
        return [self._place(point.cost, before.ap), self._place(point.cost, point.ap)]

    def _axes(self, axis: Axis) -> None:
        left, top, right, bottom = PLOT
        for value in self.x:
            x, _ = self._place(value, 0)
            self._line([(x, top), (x, bottom)], "#e6e6e6", 1)
            self._text((x, bottom + 8), axis.format(value).replace(".00", ""), "mt")
        digits = max(2, -floor(log10(self.y[1] - self.y[0]) + 1e-9))
        for value in self.y:
            _, y = self._place(0, value)
            self._line([(left, y), (right, y)], "#e6e6e6", 1)
            self._text((left - 8, y), f"{value:.{digits}f}", "rm")
        self._line([(left, top), (left, bottom), (right, bottom)], "#000000", 1)
        self._text(((left + right) / 2, bottom + 38), f"{axis.name} of the whole model{axis.note}", "mt")
        self._text((left - 8, top - 18), "AP on all validation images", "lb")

    def _numbers(self, points: Sequence[Point], best: Sequence[Point]) -> None:
        """Write each trial's number beside its point, where it hides no point and no other number."""
        taken = [_around(self._place(p.cost, p.ap), _RADIUS + 1) for p in points]
        for point in best:
            x, y = self._place(point.cost, point.ap)
            text = "dense" if point.trial is None else str(point.trial)
            width, height = self.font.getlength(text) / FINE, 14
            near, left, above = _RADIUS + 4, -_RADIUS - 4 - width, -_RADIUS - 4 - height
            for dx, dy in ((near, near), (left, above), (near, above), (left, near)):
                box = x + dx, y + dy, x + dx + width, y + dy + height
                inside = PLOT[0] <= box[0] and box[2] <= PLOT[2] and box[3] <= PLOT[3]
                if inside and not any(_meet(box, other) for other in taken):
                    self._text((box[0], box[1]), text, "lt", "#333333")
                    taken.append(box)
                    break

    def _legend(self, phases: Sequence[str], target: float | None) -> None:
        x, y = PLOT[2] + 24, PLOT[1] + 8
        for phase in phases:
            self._dot((x + 10, y), _COLOURS[phase])
            self._text((x + 28, y), phase, "lm")
            y += 26
        self._line([(x, y), (x + 20, y)], "#555555", 2)
        self._text((x + 28, y), "front", "lm")
        if target is not None:
            y += 26
            self._dashes(y, "#888888", x, x + 20)
            self._text((x + 28, y), f"target {target:.4f}", "lm")

    def _dot(self, place: tuple[float, float], colour: str) -> None:
        box = [value * FINE for value in _around(place, _RADIUS)]
        self.canvas.ellipse(box, fill=colour, outline="white", width=FINE)

    def _dashes(self, y: float, colour: str, left: float = PLOT[0], right: float = PLOT[2]) -> None:
        while left < right:
            self._line([(left, y), (min(left + 6, right), y)], colour, 1.5)
            left += 10

    def _line(self, places: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        self.canvas.line([(x * FINE, y * FINE) for x, y in places], fill=colour, width=round(width * FINE))

    def _text(self, place: tuple[float, float], text: str, anchor: str, colour: str = "black") -> None:
        shown = printable(text)  # Pillow takes neither lone surrogates nor, at these anchors, several lines
        self.canvas.text((place[0] * FINE, place[1] * FINE), shown, fill=colour, font=self.font, anchor=anchor)


def _around(place: tuple[float, float], by: float) -> _Box:
    return place[0] - by, place[1] - by, place[0] + by, place[1] + by


def _meet(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
