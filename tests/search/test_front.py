"""The front of a search, and its picture."""

from pathlib import Path

import pytest
from PIL import Image

from greedyprune.search.front import Front
from greedyprune.search.picture import PLOT, SIZE, ticks
from greedyprune.search.record import Baseline, Proposal, Record

BASELINE = Baseline(0.5, 0.6, 10, 1.0)


class Saving:
    kind, dense = "flops", 200e9

    def share_with(self, widths: dict[str, int]) -> float:
        return widths["site"] / 100


def record(width: int, ap: float | None, phase: str = "budget") -> Record:
    return Record(Proposal(phase, 0, width / 100, 0.0, False), {"site": width}, 0.5, ap, 0.588, 1, 1, 1, 1.0)


RECORDS = [
    record(50, 0.55),
    record(60, 0.54, "pareto"),  # dearer and worse
    record(40, None),  # not measured
    record(40, 0.55, "mend"),  # as good as the first, and cheaper
    record(90, 0.61, "refine"),  # better than dense
    record(10, 0.0, "pareto"),
]


@pytest.fixture
def front() -> Front:
    return Front.of(RECORDS, BASELINE, Saving())  # type: ignore[arg-type]


def test_no_trial_of_the_front_is_dearer_and_no_better_than_another(front: Front) -> None:
    assert [point.trial for point in front.points] == [None, 0, 1, 3, 4, 5]
    assert [(point.trial, point.cost, point.ap) for point in front.best] == [
        (5, pytest.approx(20e9), 0.0),
        (3, pytest.approx(80e9), 0.55),
        (4, pytest.approx(180e9), 0.61),
    ]
    assert front.table().row_count == 3


def test_the_dense_model_alone_is_a_front_and_can_be_drawn(tmp_path: Path) -> None:
    front = Front.of([], BASELINE, Saving())  # type: ignore[arg-type]
    assert [point.phase for point in front.best] == ["dense"]
    front.write(tmp_path / "pareto.png", None)
    assert Image.open(tmp_path / "pareto.png").size == SIZE


def test_every_point_is_drawn_where_its_cost_and_ap_are(front: Front, tmp_path: Path) -> None:
    front.write(tmp_path / "new" / "pareto.png", 0.588)
    picture = Image.open(tmp_path / "new" / "pareto.png").convert("RGB")
    left, top, right, bottom = PLOT
    x, y = ticks(20e9, 200e9), ticks(0.0, 0.61)
    for point, colour in ((front.points[0], (0, 0, 0)), (front.points[2], (255, 127, 14))):
        place = (
            left + (point.cost - x[0]) / (x[-1] - x[0]) * (right - left),
            bottom - (point.ap - y[0]) / (y[-1] - y[0]) * (bottom - top),
        )
        assert picture.getpixel((round(place[0]), round(place[1]))) == pytest.approx(colour, abs=8)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.695), (0.6, 0.6), (374.5e6, 397.9e6), (0.0, 0.0), (3.2, 51.0)])
def test_ticks_are_round_ascending_and_reach_around(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low + 1e-9 * abs(low)
    assert found[-1] >= high - 1e-9 * abs(high)
    assert len(found) <= 10
    assert found == sorted(set(found))
