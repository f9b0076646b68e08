"""What a search shows while it runs: a live line on a terminal, plain lines everywhere else."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from types import TracebackType
from typing import SupportsFloat, TypeVar

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from greedyprune.pruning.kinds.channels import ChannelSite
from greedyprune.report.console import duration, open_console
from greedyprune.sites import Site
from greedyprune.study.trial import Baseline, Grown, Trial
from greedyprune.text import printable

INTERVAL = 10.0  # seconds without a line after which plain output tells what is being done
REFRESH = 0.25  # seconds between two readings of a loss for a terminal, and between two of its pictures
BAR, TEXT, GAP = 20, 20, 2  # cells of a live line: of the bar, of what is being done at least, and between them

Item = TypeVar("Item")


@dataclass(frozen=True)
class Task:
    """What is being done.

    Attributes:
        text: in words.
        done: steps that are done,
        total: and those that there are; 0: they are not counted.
        loss: of the last step that it was read at; None: there is none.
        first: the time when the first step was told, and how many were done then.
    """

    text: str
    done: int = 0
    total: int = 0
    loss: float | None = None
    first: tuple[float, int] = (0.0, 0)

    def left(self, now: float) -> float | None:
        """Seconds that the steps to come take, if they are as fast as those so far; None: it is too early to say."""
        start, before = self.first
        if self.done <= before:
            return None
        return (now - start) / (self.done - before) * (self.total - self.done)

    def notes(self, now: float) -> list[str]:
        """Steps, loss and time left, as far as they are known."""
        if not self.total:
            return []
        left = self.left(now)
        return [
            f"{self.done} of {self.total}",
            *([] if self.loss is None else [f"loss {self.loss:.4g}"]),
            *([] if left is None else [f"{duration(left)} left"]),
        ]


class SearchDisplay:
    """Follows a search, whatever its phases, on stderr.

    On a terminal there is one live line of what is being done, which disappears at the end. Everywhere else (a log, a
    pipe) what is being done is told whenever nothing else was for `INTERVAL` seconds. Trials are lines in both.

    Args:
        sites: those that are searched, whose full widths are told beside what grows.
        console: where; None: stderr.
        clock: seconds.
    """

    def __init__(
        self,
        sites: Sequence[Site] = (),
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or open_console(sys.stderr)
        self._sites = {site.name: site for site in sites}
        self._clock, self._started = clock, clock()
        self._told = self._read = self._started
        self._task: Task | None = None
        self._trials: list[Trial] = []
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        # FORCE_COLOR makes rich take a log for a terminal: colours are fine there, a live line is not.
        shown = self.console.file.isatty() and not self.console.is_dumb_terminal
        self._live = self._live_line() if shown else None

    def __enter__(self) -> "SearchDisplay":
        if self._live is not None:
            self._live.start()
        else:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
        if self._thread is not None:
            self._end.set()
            self._thread.join()

    def begin(self, baseline: Baseline, trials: Sequence[Trial], aim: str) -> None:
        """The search for `aim` starts, or goes on after some trials."""
        self._trials = list(trials)
        self._print(f"dense: AP {baseline.full_map:.4f} on all images, {baseline.subset_map:.4f} on the subset; {aim}")
        if trials:
            done = f", sites done: {len(grown)}" if (grown := self._finished()) else ""
            self._print(f"going on after {len(trials)} trial{'s' if len(trials) > 1 else ''}{done}")

    def doing(self, text: str) -> None:
        """What takes time from now on."""
        self._task = Task(printable(text, None))
        self._tell_if_due()

    def progress(self, done: int, total: int, loss: SupportsFloat | None = None) -> None:
        """How far it is; the loss is read where it is shown."""
        now, task = self._clock(), self._task or Task("")
        first = task.first if total == task.total and done > task.done else (now, done)
        read = loss is not None and (task.loss is None or now - self._read >= REFRESH)
        if read:
            self._read = now
        value = float(loss) if read and loss is not None else task.loss
        self._task = replace(task, done=done, total=total, loss=value, first=first)
        self._tell_if_due()

    def counting(self, text: str) -> Callable[[Iterable[Item]], Iterator[Item]]:
        """A wrapper of what is iterated over that tells how far it is."""

        def wrap(items: Iterable[Item]) -> Iterator[Item]:
            self.doing(text)
            total = len(items) if isinstance(items, Sized) else 0
            for done, item in enumerate(items, start=1):
                yield item
                self.progress(done, total)

        return wrap

    def tried(self, trial: Trial) -> None:
        """A trial is in the study."""
        self._trials.append(trial)
        # On a terminal the rounds of a site that grows, hundreds of them, are seen in the live line.
        if trial.grown is None or trial.grown.done or self._live is None:
            line = self._trial_line(trial, " of what the sites cost")
            narrow = self._live is not None and len(line) > self.console.width
            self._print(self._trial_line(trial) if narrow else line)

    def _trial_line(self, trial: Trial, of: str = "") -> str:
        full = "skipped" if trial.full_map is None else f"{trial.full_map:.4f}"
        outcome, left = "holds" if trial.holds else "-", ""
        kept = f"keeps {trial.share:6.1%}{of}"
        if trial.grown is not None:
            kept = f"{self._growth(trial.grown)}  {kept}"
            outcome, left = self._outcome(trial.grown), self._left()
        return (
            f"{printable(trial.phase):<6} {trial.step + 1:<3} {kept}   "
            f"AP subset {trial.subset_map:.4f} full {full:<7}  {outcome:<5}   {self._gone()}{left}"
        )

    def _growth(self, grown: Grown) -> str:
        site = self._sites.get(grown.site)
        of = "" if site is None else f" of {site.full:<4}"
        return f"{printable(grown.site):<16} round {grown.round + 1:>3}  width {len(grown.kept):>4}{of}"

    def _outcome(self, grown: Grown) -> str:
        site = self._sites.get(grown.site)
        if not grown.done:
            return "-"
        return "full" if site is not None and len(grown.kept) == site.full else "done"

    def _finished(self) -> list[Trial]:
        return [trial for trial in self._trials if trial.grown is not None and trial.grown.done]

    def _left(self) -> str:
        """Time left, as if every site to come took as long as those that are done."""
        sites = sum(isinstance(site, ChannelSite) for site in self._sites.values())
        done = len(self._finished())
        if not 0 < done < sites:
            return ""
        last = self._trials[-1].grown
        share = done if last is not None and last.done else done + 0.5  # for all that is known
        return f", {duration(sum(trial.seconds for trial in self._trials) / share * (sites - share))} left"

    def _gone(self) -> str:
        return f"{duration(self._clock() - self._started)} gone"

    def _print(self, line: str) -> None:
        with self._lock:
            self._told = self._clock()
        self.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def _tell_if_due(self) -> None:
        """In plain output, a line of what is being done if nothing was told for long."""
        if self._live is not None:
            return
        with self._lock:
            now, task = self._clock(), self._task
            if task is None or now - self._told < INTERVAL:
                return
            self._told = now
        notes = "".join(f", {note}" for note in task.notes(now))
        self._print(f"{task.text}{notes}   {self._gone()}")

    def _watch(self) -> None:
        while not self._end.wait(1.0):
            self._tell_if_due()

    def _live_line(self) -> Live:
        # What goes to stdout stays there: it may be a file.
        return Live(
            console=self.console,
            get_renderable=self.line,
            refresh_per_second=1 / REFRESH,
            transient=True,
            redirect_stdout=False,
        )

    def line(self) -> Table:
        """The live line: time gone, what is being done, and how far it is."""
        now, task = self._clock(), self._task or Task("")
        gone, notes = duration(now - self._started), task.notes(now)
        room = self.console.width - len(gone) - GAP
        while notes and room - _cells(notes) < TEXT:
            notes.pop()
        bar = bool(notes) and room - _cells(notes) >= TEXT + BAR + GAP
        text = Text(task.text)
        text.truncate(max(0, room - _cells(notes) - (BAR + GAP if bar else 0)), overflow="ellipsis")
        cells: list[Text | ProgressBar] = [Text(gone), text, *map(Text, notes)]
        if bar:
            cells.insert(2, ProgressBar(task.total, task.done, BAR))
        table = Table.grid(padding=(0, GAP, 0, 0))
        for _ in cells:
            table.add_column(no_wrap=True)
        table.add_row(*cells)
        return table


def _cells(notes: Sequence[str]) -> int:
    """Cells that notes take at the end of a live line."""
    return sum(len(note) + GAP for note in notes)
