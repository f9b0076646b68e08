"""What a search shows while it runs: a live panel on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from greedyprune.pruning.sites import Site
from greedyprune.report import open_console
from greedyprune.search.record import Baseline, Growth, Proposal, Record, growths


def duration(seconds: float) -> str:
    """`0:04`, `12:30`, `3:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class SearchDisplay:
    """Follows a search on stderr.

    Args:
        console: where; None: stderr.
        live: a panel that is redrawn; None: only on a terminal.
    """

    def __init__(self, console: Console | None = None, live: bool | None = None) -> None:
        self.console = console or open_console(sys.stderr)
        shown = self.console.is_terminal if live is None else live
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if shown else None
        self.sites: Sequence[Site] = ()
        self.baseline: Baseline | None = None
        self.done: list[Growth] = []
        self.rounds: list[Record] = []
        self.now: tuple[Site, int, int, float] | None = None
        self.started = time.monotonic()

    def __enter__(self) -> "SearchDisplay":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    def begin(self, sites: Sequence[Site], baseline: Baseline, records: Sequence[Record]) -> None:
        """The search starts, or goes on after `records`."""
        self.sites, self.baseline = sites, baseline
        self.done = [growth for growth in growths(records) if growth.done]
        self.rounds = list(records)
        self.console.print(f"dense: AP {baseline.full_map:.4f} on all images, {baseline.subset_map:.4f} on the subset")
        if records:
            self.console.print(f"going on after {len(records)} trials: {len(self.done)} of {len(sites)} sites are done")

    def round(self, site: Site, number: int, width: int, target: float) -> None:
        """A round of a site starts."""
        self.now = (site, number, width, target)
        self._redraw()

    def recorded(self, record: Record) -> None:
        """A proposal is in the database."""
        self.rounds.append(record)
        growth = record.origin
        assert isinstance(growth, Growth)
        if growth.done:
            self.done.append(growth)
        if growth.done or not self.live:
            self.console.print(self._line(record, growth), highlight=False, soft_wrap=True)
        self._redraw()

    def _line(self, record: Record, growth: Growth) -> str:
        site = next(site for site in self.sites if site.name == growth.site)
        full = "skipped" if record.full_map is None else f"{record.full_map:.4f}"
        time_ = f"{duration(time.monotonic() - self.started)} gone, {self._left()} left"
        outcome = ""
        if growth.done:
            outcome = "   stays dense" if len(growth.kept) == site.width else "   done"
        return (
            f"{self.sites.index(site) + 1:>3}/{len(self.sites)} {site.name:<16} round {growth.round + 1:>3}  "
            f"width {len(growth.kept):>4} of {site.width:<4}  AP subset {record.subset_map:.4f} full {full:<7} "
            f"target {record.target:.4f}   {time_}{outcome}"
        )

    def _left(self) -> str:
        """Time left, as if every site to come took as long as those that are done."""
        if not self.done:
            return "?"
        seconds = sum(record.seconds for record in self.rounds)
        last = growths(self.rounds[-1:])
        share = len(self.done) + (0.5 if last and not last[0].done else 0.0)
        return duration(seconds / share * (len(self.sites) - share))

    def _redraw(self) -> None:
        if self.live and self.now:
            self.live.update(self._panel(), refresh=True)

    def _panel(self) -> RenderableType:
        assert self.now
        site, number, width, target = self.now
        table = Table.grid(padding=(0, 2))
        table.add_row("site", f"{site.name} ({len(self.done) + 1} of {len(self.sites)})")
        table.add_row("round", str(number + 1))
        table.add_row("width", f"{width} of {site.width}")
        mine = [r for r in self.rounds if isinstance(r.origin, Growth) and r.origin.site == site.name]
        if mine:
            last = mine[-1]
            full = "skipped" if last.full_map is None else f"{last.full_map:.4f}"
            table.add_row("AP", f"subset {last.subset_map:.4f}, full {full}; target {target:.4f}")
        else:
            table.add_row("AP", f"target {target:.4f}")
        table.add_row("time", f"{duration(time.monotonic() - self.started)} gone, {self._left()} left")
        bar = ProgressBar(total=len(self.sites), completed=len(self.done), width=40)
        return Group(Text(), bar, table)


class ProposalDisplay:
    """Follows a search of the whole model on stderr.

    Args:
        console: where; None: stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or open_console(sys.stderr)
        self.status = self.console.status("") if self.console.is_terminal else None
        self.started = time.monotonic()

    def __enter__(self) -> "ProposalDisplay":
        if self.status:
            self.status.start()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.status:
            self.status.stop()

    def begin(self, baseline: Baseline, records: Sequence[Record], aim: str) -> None:
        """The search for `aim` starts, or goes on after `records`."""
        self.console.print(
            f"dense: AP {baseline.full_map:.4f} on all images, {baseline.subset_map:.4f} on the subset; {aim}",
            highlight=False,
            soft_wrap=True,
        )
        if records:
            self.console.print(f"going on after {len(records)} trials")

    def doing(self, text: str) -> None:
        """What takes time now."""
        if self.status:
            self.status.update(Text(f"{duration(time.monotonic() - self.started)}  {text}"))

    def proposed(self, record: Record) -> None:
        """A proposal is in the database."""
        proposal = record.origin
        assert isinstance(proposal, Proposal)
        full = "skipped" if record.full_map is None else f"{record.full_map:.4f}"
        self.console.print(
            f"{proposal.phase:<6} {proposal.number + 1}  keeps {proposal.share:6.1%} of what the sites cost   "
            f"AP subset {record.subset_map:.4f} full {full:<7}  {'holds' if proposal.holds else '-':<5}   "
            f"{duration(time.monotonic() - self.started)} gone",
            highlight=False,
            soft_wrap=True,
        )
