"""What a search shows while it runs, on a terminal and in a log."""

import io
import re
from collections.abc import Iterator

import pytest
import torch
from rich.cells import cell_len

from greedyprune.pruning.fit import fit
from greedyprune.report.console import duration, open_console
from greedyprune.report.display import INTERVAL, SearchDisplay
from greedyprune.study.trial import Grown

from ..helpers.made_up import BASELINE, NAMES, PLAIN, layered_sites, printed, trial


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


class Clock:
    """Seconds that pass only when they are told to, or by a step with every look."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def log(clock=None, sites=(), file=None, width=80):
    """A display and what it writes."""
    file = file or io.StringIO()
    console = open_console(file)
    console.width = width
    return SearchDisplay(sites, console, clock or Clock()), file


def lines(file):
    return file.getvalue().splitlines()


def test_a_log_has_a_line_for_every_trial_of_any_phase():
    clock = Clock()
    display, file = log(clock)
    display.begin(BASELINE, [], "0.5880 is to be held")
    clock.now = 18.0
    display.tried(trial(50, None))
    display.tried(trial(45, 0.5831, "mend", holds=True))
    assert lines(file) == [
        "dense: AP 0.6000 on all images, 0.5000 on the subset; 0.5880 is to be held",
        "budget 1   keeps  50.0% of what the sites cost   AP subset 0.5000 full skipped  -       0:18 gone",
        "mend   1   keeps  45.0% of what the sites cost   AP subset 0.5000 full 0.5831   holds   0:18 gone",
    ]


def grown(site, round_, width, done):
    return trial(90, None, "gp", done, Grown(site, round_, tuple(range(width)), None, done))


def test_what_grows_is_told_with_its_site_round_and_width():
    clock = Clock()
    display, file = log(clock, layered_sites())
    display.begin(BASELINE, [], "")
    for each in (
        grown("first.attn", 0, 8, False),
        grown("first.attn", 1, 16, True),
        grown("first.ffn", 0, 256, True),
    ):
        display.tried(each)
    told = lines(file)[1:]
    assert "first.attn       round   1  width    8 of 64    keeps  90.0%" in told[0]
    assert re.search(r"width   16 of 64 .* done +0:00 gone, 0:12 left", told[1])
    assert re.search(r"width  256 of 256 .* full +0:00 gone, 0:06 left", told[2])


def test_a_search_that_goes_on_says_after_what():
    display, file = log(sites=layered_sites())
    display.begin(BASELINE, [grown("first.attn", 0, 8, False), grown("first.attn", 1, 16, True)], "")
    assert lines(file)[1] == "going on after 2 trials, sites done: 1"


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_any_text_are_shown_on_one_line(kind):
    clock = Clock()
    display, file = log(clock)
    display.tried(grown(NAMES[kind], 0, 8, True))
    clock.now += INTERVAL
    display.doing(f"damage of {NAMES[kind]}")
    assert len(lines(file)) == 2
    assert not any(ord(letter) < 32 for line in lines(file) for letter in line)
    if kind in PLAIN:
        assert all(NAMES[kind] in line for line in lines(file))


def losses(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    while True:
        yield weight.square().sum()


def test_a_log_tells_regularly_how_far_mending_is():
    clock = Clock(0.25)  # so many seconds pass with every look
    display, file = log(clock)
    display.doing("mending all together")
    weight = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    fit([weight], losses(weight), 200, 0.1, display)
    told = lines(file)
    assert 3 <= len(told) <= 200 * 0.75 / INTERVAL
    steps = [
        re.fullmatch(r"mending all together, (\d+) of 200, loss ([\d.e-]+), \d+:\d\d left   \d+:\d\d gone", line)
        for line in told
    ]
    assert all(steps)
    numbers = [(int(step[1]), float(step[2])) for step in steps if step]
    assert numbers == sorted(numbers, key=lambda number: (number[0], -number[1]))


def test_a_log_has_no_line_of_what_is_done_at_once():
    clock = Clock()
    display, file = log(clock)
    for number in range(100):
        display.doing(f"damage of {number}")
        display.progress(number, 100)
    assert not lines(file)
    clock.now = INTERVAL
    display.doing("damage of the last one")
    display.doing("and of another")
    assert lines(file) == ["damage of the last one   0:10 gone"]


def test_time_left_is_that_of_the_steps_since_the_first_one():
    clock = Clock()
    display, file = log(clock)
    display.doing("statistics")
    clock.now = 100.0  # before the first step: not of the steps
    display.progress(1, 11)
    clock.now = 110.0
    display.progress(2, 11, torch.tensor(0.25))
    assert lines(file)[-1] == "statistics, 2 of 11, loss 0.25, 1:30 left   1:50 gone"
    clock.now = 120.0
    display.progress(1, 11)  # from the start again
    assert lines(file)[-1] == "statistics, 1 of 11, loss 0.25   2:00 gone"


def test_what_is_gone_through_is_counted():
    clock = Clock(6.0)
    display, file = log(clock)
    assert list(display.counting("scoring [images]")(["a", "b", "c"])) == ["a", "b", "c"]
    assert any(line.startswith("scoring [images], 2 of 3") for line in lines(file))
    assert list(display.counting("more")(iter("abc"))) == ["a", "b", "c"]
    assert any(line.startswith("more   ") for line in lines(file))


def test_a_loss_is_read_only_where_it_is_shown():
    class Loss:
        reads = 0

        def __float__(self) -> float:
            self.reads += 1
            return 0.5

    loss = Loss()
    display, _ = log()
    for step in range(1000):
        display.progress(step, 1000, loss)
    assert loss.reads == 1


def test_a_log_tells_what_takes_long_even_if_nothing_happens(monkeypatch):
    clock = Clock()
    display, file = log(clock)
    told = []
    monkeypatch.setattr(display._end, "wait", lambda seconds: bool(told) or bool(told.append(seconds)))
    display.doing("AP of the dense model")
    clock.now = 65.0
    with display:
        display._thread.join()
    assert lines(file) == ["AP of the dense model   1:05 gone"]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_terminal_has_a_live_line_that_fits_and_is_gone_at_the_end(width):
    clock = Clock()
    display, file = log(clock, layered_sites(), Terminal(), width)
    with display:
        display.begin(BASELINE, [], "")
        display.doing("mending encoder layer 0: [/red] " + "x" * 30)
        clock.now = 2.0
        display.progress(1, 550, 0.123456)
        clock.now = 10.0
        display.progress(41, 550, 0.01)
        (line,) = printed(display.line(), width)
        display.tried(grown("first.attn", 0, 8, False))  # a round of a site is no line here
        display.tried(grown("first.attn", 1, 16, True))
    assert cell_len(line) <= width
    assert line.startswith("0:10")
    assert "mending encoder layer" in line
    assert "41 of 550" in line
    assert (("loss 0.01" in line), ("[/red]" in line), ("━" in line)) == (width > 40, width > 40, width > 80)
    assert file.getvalue().count("round") == 1
    assert "\x1b[?25h" in file.getvalue()  # the cursor is shown again


def test_a_trials_line_is_shorter_on_a_narrow_terminal_and_complete_in_a_log():
    for width, terminal, kept in ((80, True, False), (120, True, True), (80, False, True)):
        display, file = log(file=Terminal() if terminal else None, width=width)
        display.tried(trial(50, 0.5))
        assert ("of what the sites cost" in file.getvalue()) == kept
        assert terminal == (len(lines(file)[0]) <= width)


@pytest.mark.parametrize(("name", "value", "file"), [("FORCE_COLOR", "1", io.StringIO), ("TERM", "dumb", Terminal)])
def test_a_log_stays_plain_where_colours_are_forced_and_so_do_dumb_terminals(name, value, file, monkeypatch):
    monkeypatch.setenv(name, value)
    display, file = log(file=file())
    with display:
        display.doing("mending")
        display.tried(trial(50, 0.5))
    assert len(lines(file)) == 1
    assert "\x1b" not in file.getvalue()


def test_durations_are_clock_times():
    assert [duration(seconds) for seconds in (3.6, 750, 11_100)] == ["0:04", "12:30", "3:05:00"]
