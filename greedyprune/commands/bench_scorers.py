"""`tools/bench_scorers.py`: what every scorer leaves of the AP, without fine-tuning, at the same widths."""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from torch import nn

from greedyprune.cli import (
    Parser,
    add_cache_argument,
    add_data_arguments,
    add_device_arguments,
    add_model_arguments,
    open_model,
)
from greedyprune.commands.datasets import open_dataset
from greedyprune.commands.flags import add_flags, from_flags
from greedyprune.commands.prune_needs import CONVOLUTIONS, Call, Need, check_needs
from greedyprune.errors import UserError
from greedyprune.families import Family, family_of
from greedyprune.pruning.cutter import Cutter
from greedyprune.pruning.kinds.channels import ChannelSite
from greedyprune.pruning.scorers import SCORERS, Given, given
from greedyprune.ranges import COUNT_OR_NONE
from greedyprune.report.console import add_columns, open_console
from greedyprune.report.display import SearchDisplay
from greedyprune.report.measured import Circumstances, check_output
from greedyprune.search.options import MendOptions, SearchImages, SearchOptions
from greedyprune.search.search import measured_baseline
from greedyprune.search.setup import Chosen, Resources, open_workshop, searched_sites
from greedyprune.search.workshop import Workshop
from greedyprune.sites import AttentionSite, Change, HiddenSite, Site, Widths
from greedyprune.text import file_path, plain_text

SHARES = (0.75, 0.5, 0.375, 0.25)
_MENDING = Need("nothing is mended without --mend_steps N", lambda call: bool(call.options.mend.steps))
_NEEDS: Mapping[str, tuple[Need, ...]] = {
    "prune": (Need("--widths say themselves what is cut", lambda call: call.args.widths is None),),
    "scorers": (
        Need(
            "where no attention loses channels, basis is select; name one of the two",
            lambda call: _has_bases(call.sites) or not {"basis", "select"} <= set(call.args.scorers),
        ),
    ),
    "mend_images": (_MENDING,),
    "mend_augment": (_MENDING, CONVOLUTIONS),
}


@dataclass(frozen=True)
class Column:
    """Widths to which every scorer cuts.

    Attributes:
        name: heads the column.
        widths: site name -> width.
        flops: share of the dense model's multiply-adds that is left, deployed form against deployed form.
    """

    name: str
    widths: dict[str, int]
    flops: float


@dataclass(frozen=True)
class ScorerRow:
    """What a scorer leaves.

    Attributes:
        scorer: which.
        refit: what reads the kept channels was solved again.
        mend_steps: steps of mending; 0: none.
        seconds: of ordering, cutting and mending the models of all columns.
        ap: name of a column -> AP.
    """

    scorer: str
    refit: bool
    mend_steps: int
    seconds: float
    ap: dict[str, float]

    @property
    def cells(self) -> list[str]:
        """For a table."""
        told = ["yes" if each else "no" for each in (self.refit, self.mend_steps)]
        return [self.scorer, *told, f"{self.seconds:.1f}", *(f"{ap:.4f}" for ap in self.ap.values())]


class Forgotten:
    """Measurements that nobody will ask for again."""

    def facts(self) -> dict[str, Any]:
        return {}

    def set_fact(self, key: str, value: Any) -> None: ...


def parser() -> argparse.ArgumentParser:
    """The options of `tools/bench_scorers.py`."""
    parser = Parser("What every scorer leaves of the AP, without fine-tuning, all sites cut to the same share.")
    add_model_arguments(parser)
    add_data_arguments(parser, batch_size=SearchOptions.batch_size)
    add_device_arguments(parser, amp=False)
    group = parser.add_argument_group("what is measured")
    group.add_argument(
        "--prune",
        nargs="+",
        type=plain_text,
        metavar="PART",
        help="parts whose channels are cut, as those of tools/prune_greedy.py (default: encoder decoder)",
    )
    group.add_argument("--widths", nargs="+", metavar="WIDTHS", help="one width list instead of the shares")
    group.add_argument(
        "--scorers",
        nargs="+",
        choices=SCORERS,
        help="which (default: all that differ, but exact, whose order of every site takes very long)",
    )
    group.add_argument(
        "--mend_steps",
        type=COUNT_OR_NONE.parse,
        default=0,
        metavar="N",
        help="also mend every refitted model, in so many steps (default: 0, which leaves that out)",
    )
    add_flags(group, MendOptions, only=("images", "augment"), unset=True, pattern="mend_{}")
    group = parser.add_argument_group("images")
    add_flags(group, SearchImages, only=("eval_images", "calib_images"), unset=True)
    add_flags(group, SearchOptions, only=("seed",), unset=True)
    add_cache_argument(group)
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write what was measured there, too")
    parser.set_defaults(whole_heads=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table.

    Raises:
        UserError: the model, the data, the parts or the widths cannot be used, or an option does nothing.
    """
    args = parser().parse_args(argv)
    check_output(args.json, "--json")
    model = open_model(args)
    family = family_of(model)
    options = from_flags(SearchOptions, args, prune=tuple(args.prune or family.published))
    layout = family.layout(model)
    widths = None if args.widths is None else layout.parse(args.widths, "--widths")
    sites = _cut_sites(family, model, options, widths)
    check_needs(Call(args, options, sites), _NEEDS)
    now = Circumstances.now("bench_scorers", argv, next(model.parameters()).device)
    chosen = Chosen.choose(options, *(open_dataset(args, model, split) for split in ("val", "train")))
    with SearchDisplay(sites) as display:
        resources = Resources(args.cache_gb, args.num_workers, display.counting, display)
        workshop = open_workshop(family, model, sites, chosen, options, Forgotten(), resources)
        display.doing("AP of the dense model")
        dense = measured_baseline(workshop.evaluator).full_map
        display.doing("statistics of the calibration images")
        started = time.perf_counter()
        _ = workshop.cutter.given.moments
        statistics = time.perf_counter() - started
        columns = _columns(workshop, widths)
        rows = []
        for row in measured_rows(workshop, columns, args.scorers or _scorers(sites)):
            rows.append(row)
            print("  ".join(row.cells), file=sys.stderr)  # a run of hours tells what it has
    images, calibration = len(chosen.full), len(chosen.calibration)
    table = Table(title=f"AP of {images} images; dense {dense:.4f}; {calibration} calibration images")
    add_columns(table, "scorer", "refit", "mended", "seconds", *(column.name for column in columns))
    for row in rows:
        table.add_row(*row.cells)
    left = ", ".join(f"{column.flops:.1%}" for column in columns)
    table.caption = f"{len(sites)} sites cut; multiply-adds left of the whole detector's: {left}"
    print(f"statistics of the calibration images took {statistics:.1f} s")
    open_console().print(table)
    if args.json is not None:
        about = {
            "dense_ap": dense,
            "images": images,
            "calibration_images": calibration,
            "statistics_seconds": statistics,
            "sites": [site.name for site in sites],
            "columns": [asdict(column) for column in columns],
        }
        now.write(args.json, about, {"scorers": rows})
    return 0


def measured_rows(workshop: Workshop, columns: Sequence[Column], scorers: Sequence[str]) -> Iterator[ScorerRow]:
    """A row for every scorer: refitted and mended, where that is asked for, refitted, and neither.

    Args:
        workshop: of the dense detector.
        columns: the widths.
        scorers: which.
    """
    cutter, bench, material = workshop.cutter, workshop.bench, workshop.material
    steps = workshop.options.mend.steps if material is not None else 0
    if material is not None and not bench.before(bench.origin, bench.mended_from):
        material.cached().fill()  # before the clock: all scorers have the same ones
    for scorer in scorers:
        fresh = given(cutter.given.images, workshop.sites, workshop.options.seed)
        fresh.moments = cutter.given.moments
        workshop.doing(f"{scorer}: order")
        ordering = _ordering_seconds(fresh, scorer)
        for refit, mend_steps in (*([(True, steps)] if steps else []), (True, 0), (False, 0)):
            started = time.perf_counter()
            own = Cutter(fresh, scorer, refit)
            changes: list[Change] = [own.change(column.widths) for column in columns]
            if mend_steps and material is not None:
                changes = [material.mended(bench, each, mend_steps, workshop.watcher) for each in changes]
            seconds = ordering + time.perf_counter() - started
            workshop.doing(f"{scorer}: AP")
            found = {column.name: _ap(workshop, change) for column, change in zip(columns, changes, strict=True)}
            yield ScorerRow(scorer, refit, mend_steps, seconds, found)


def _ordering_seconds(given: Given, scorer: str) -> float:
    """Seconds until the channels of all sites are in order, which is done once."""
    started = time.perf_counter()
    if scorer != "basis":
        given.order(given.channel_sites[0], scorer)
    elif any(isinstance(site, HiddenSite) for site in given.sites):
        given.order(given.channel_sites[0], "select")
    return time.perf_counter() - started


def _ap(workshop: Workshop, change: Change) -> float:
    """AP on all evaluated images."""
    _, subset = workshop.evaluator.subset_map(change)
    return workshop.evaluator.full_map(subset, change)


def _columns(workshop: Workshop, widths: Widths | None) -> list[Column]:
    """The shares, or the widths that were given."""
    asked = {"--widths": {site.name: widths[site.name] for site in workshop.sites}} if widths is not None else None
    columns = asked or {f"{share:.1%}": _even(workshop.sites, share) for share in SHARES}
    return [Column(name, each, workshop.saving.share_with(each)) for name, each in columns.items()]


def _even(sites: Sequence[Site], share: float) -> dict[str, int]:
    """A share of every site's channels, to the nearest width that it can have."""
    return {site.name: max(site.least, round(site.full * share / site.grain) * site.grain) for site in sites}


def _cut_sites(family: Family, model: nn.Module, options: SearchOptions, widths: Widths | None) -> list[Site]:
    """The sites that are cut: the channels of the parts, or whatever the widths cut.

    Raises:
        UserError: no channels are among them.
    """
    sites: list[Site] = []
    if widths is None:
        sites += (site for site in searched_sites(family, model, options) if isinstance(site, ChannelSite))
        what = f"--prune {' '.join(options.prune)} has"
    else:
        sites += (site for site in family.sites(model) if widths[site.name] != site.full)
        what = "--widths cut"
    if not any(isinstance(site, ChannelSite) for site in sites):
        raise UserError(f"{what} no channels, and scorers differ in these alone; name parts or widths that do")
    return sites


def _has_bases(sites: Sequence[Site]) -> bool:
    """Whether an attention loses channels, not whole heads: the closed form rewrites it."""
    return any(isinstance(site, AttentionSite) and site.unit == 1 for site in sites)


def _scorers(sites: Sequence[Site]) -> list[str]:
    """All that differ, but `exact`."""
    same = () if _has_bases(sites) else ("select",)
    return [scorer for scorer in SCORERS if scorer not in ("exact", *same)]
