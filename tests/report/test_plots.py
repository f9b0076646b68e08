"""The picture of a front shows every phase in its colour, whatever things are called and however matplotlib is set."""

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from greedyprune.report.front import Front
from greedyprune.report.plots import SIZE, draw_front, write_front
from greedyprune.search.options import SearchOptions
from greedyprune.search.phases import PHASES, SCHEDULES
from greedyprune.search.phases.budget import BudgetPhase

from ..helpers.made_up import BASELINE, NAMES, PLAIN, Price, trial
from .test_front import TRIALS

# A front that rises steeply and is flat afterwards, as those of searches do.
STEEP = [trial(30 + 2 * n, ap, "pareto") for n, ap in enumerate((0.1, 0.3, 0.4, 0.5, 0.58, 0.585))] + [
    trial(60, 0.59, "mend"),
    trial(80, 0.595),
]


def front(trials, kind="flops"):
    return Front.of(trials, BASELINE, Price(kind))


def pixels(path):
    """`[h, w, 3]` in 0..1."""
    with Image.open(path) as picture:
        assert picture.size == SIZE
        return np.asarray(picture.convert("RGB"), dtype=float) / 255


def many(picture, colour):
    """Pixels of a colour."""
    return int((np.abs(picture - to_rgb(colour)).max(axis=-1) < 0.02).sum())


def test_each_phase_has_its_colour_and_only_those_that_tried_something(tmp_path):
    write_front(front(TRIALS), tmp_path / "new" / "pareto.png", 0.588)
    picture = pixels(tmp_path / "new" / "pareto.png")
    there = {each.phase for each in TRIALS}
    for name, phase in PHASES.items():
        same = any(PHASES[other].colour == phase.colour for other in there)
        assert (many(picture, phase.colour) > 100) == same, name
    assert many(picture, "black") > 100


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_phases_of_a_schedule_have_colours_and_labels_of_their_own(schedule):
    phases = SCHEDULES[schedule](SearchOptions(), [])
    assert len({phase.colour for phase in phases}) == len({phase.label for phase in phases}) == len(phases)


def texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_legend_names_phases_front_and_target():
    drawn = draw_front(front(TRIALS), 0.588, "", PHASES)
    labels = [PHASES[name].label for name in PHASES if name in {each.phase for each in TRIALS}]
    assert texts(drawn) == [*labels, "dense", "front", "target 0.5880"]
    assert texts(draw_front(front([]), None, "", PHASES)) == ["dense", "front"]


@pytest.mark.parametrize(
    ("trials", "kind"),
    [([], "flops"), ([trial(100, 0.6)], "flops"), ([trial(50, 0.0), trial(40, 0.0)], "params"), (STEEP, "latency")],
    ids=["none", "as dense", "of no use", "steep"],
)
def test_any_trials_can_be_drawn(trials, kind, tmp_path):
    write_front(front(trials, kind), tmp_path / "pareto.png")
    assert many(pixels(tmp_path / "pareto.png"), "black") > 100


def numbers(axes):
    return [text.get_text() for text in axes.texts]


def test_what_is_nearly_dense_is_enlarged_where_it_would_be_small():
    (axes,) = draw_front(front(STEEP), 0.588, "", PHASES).axes
    (inset,) = [child for child in axes.child_axes if child.get_ylim()[0] > 0.5]
    assert numbers(axes) == ["0", "1", "2", "3"]
    assert numbers(inset) == ["4", "5", "6", "7", "dense"]
    (flat,) = draw_front(front([trial(50, 0.55), trial(70, 0.58)]), 0.588, "", PHASES).axes
    assert not [child for child in flat.child_axes if child.lines]
    assert numbers(flat) == ["0", "1", "dense"]


def test_any_text_is_drawn_letter_by_letter(tmp_path, recwarn):
    phases = {kind: type("Odd", (BudgetPhase,), {"label": name}) for kind, name in NAMES.items()}
    trials = [trial(50, 0.5 + number / 1000, kind) for number, kind in enumerate(NAMES)]
    title = "".join(NAMES.values())
    write_front(front(trials), tmp_path / "pareto.png", 0.5, title, phases)
    assert many(pixels(tmp_path / "pareto.png"), BudgetPhase.colour) > 100
    assert not recwarn.list
    figure = draw_front(front(trials[:11]), 0.5, NAMES["mathematics"], phases)
    shown = dict(zip(NAMES, texts(figure), strict=False))
    assert figure.axes[0].get_title() == NAMES["mathematics"]
    for kind in (*PLAIN, "mathematics", "underscore"):
        assert shown[kind] == NAMES[kind]


def test_a_trial_of_no_known_phase_is_not_left_out_in_silence():
    with pytest.raises(ValueError, match="no phase is called 'guess'"):
        draw_front(front([trial(50, 0.5, "guess")]), None, "", PHASES)


def test_the_users_matplotlib_is_left_alone_and_leaves_the_picture_alone(tmp_path):
    write_front(front(TRIALS), tmp_path / "before.png", 0.588)
    odd = {"figure.facecolor": "red", "text.usetex": True, "savefig.dpi": 30, "axes.formatter.use_mathtext": True}
    with matplotlib.rc_context(odd):
        before = dict(matplotlib.rcParams)
        write_front(front(TRIALS), tmp_path / "after.png", 0.588)
        assert dict(matplotlib.rcParams) == before
    assert (pixels(tmp_path / "before.png") == pixels(tmp_path / "after.png")).all()
