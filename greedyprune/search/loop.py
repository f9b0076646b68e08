"""The search: propose, evaluate, record, until every site is done."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from greedyprune.errors import UserError
from greedyprune.evaluation.nothing import NOTHING, doubt, why_nothing
from greedyprune.models.detector import Detector
from greedyprune.pruning.kept import KeptSets, check_kept, full_kept
from greedyprune.pruning.schedule import (
    ScheduleOptions,
    draw_candidates,
    grow,
    is_done,
    order_sites,
    site_target,
    skips_full,
)
from greedyprune.pruning.sites import Site, list_sites
from greedyprune.pruning.transplant import shrink_site, slim_site
from greedyprune.search.cost import CostModel
from greedyprune.search.evaluator import Evaluator
from greedyprune.search.record import Baseline, Growth, Record, growths
from greedyprune.search.stored import REMEDY


class Store(Protocol):
    """Where a search keeps what it knows; `Study` is one."""

    place: str

    def records(self) -> list[Record]: ...

    def add(self, record: Record) -> None: ...

    def baseline(self) -> Baseline | None: ...

    def set_baseline(self, baseline: Baseline) -> None: ...


class Display(Protocol):
    """What is told while a search runs."""

    def begin(self, sites: Sequence[Site], baseline: Baseline, records: Sequence[Record]) -> None: ...

    def round(self, site: Site, number: int, width: int, target: float) -> None: ...

    def recorded(self, record: Record) -> None: ...


@dataclass(frozen=True)
class Position:
    """Where a search stands, as its records tell.

    Attributes:
        kept: the kept sets of the sites that are done.
        site: index, in the schedule's order, of the site that grows; the number of sites when all are done.
        growing: that site's kept channels so far.
        round: that site's next round.
        subset_map: AP on the subset of the model with the sites that are done.
        full_map: the same on all validation images, where it was measured.
    """

    kept: KeptSets
    site: int
    growing: tuple[int, ...]
    round: int
    subset_map: float
    full_map: float | None


def position_of(order: Sequence[Site], baseline: Baseline, records: Sequence[Record]) -> Position:
    """Replay the records of a search; see `check_growths`."""
    kept: KeptSets = {}
    growing: tuple[int, ...] = ()
    round_ = 0
    subset_map: float = baseline.subset_map
    full_map: float | None = baseline.full_map
    for record, growth in zip(records, growths(records), strict=True):
        growing, round_ = growth.kept, growth.round + 1
        if growth.done:
            kept[growth.site] = growth.kept
            growing, round_ = (), 0
            subset_map, full_map = record.subset_map, record.full_map
    return Position(kept, len(kept), growing, round_, subset_map, full_map)


def check_growths(order: Sequence[Site], records: Sequence[Record], place: str) -> None:
    """Check that records are rounds of the sites in their order, each of which adds to the one before it.

    Args:
        order: the sites in the schedule's order.
        records: a study's, each of the right types.
        place: the study, for messages.

    Raises:
        UserError: names the first trial that is something else.
    """
    before: tuple[int, ...] = ()
    done, round_ = 0, 0
    for number, record in enumerate(records):
        growth, site = record.origin, order[done] if done < len(order) else None
        if not isinstance(growth, Growth):
            wrong = "is not of schedule gp or modular"
        elif site is None:
            wrong = "comes after the last site was done"
        elif (growth.site, growth.round) != (site.name, round_):
            wrong = f"is round {growth.round} of {growth.site}, where round {round_} of {site.name} comes next"
        elif not set(before) < set(growth.kept):
            wrong = "keeps not all the channels of the round before it, and more"
        else:
            try:
                check_kept(site, growth.kept)
            except UserError as error:
                wrong = str(error)
            else:
                before, round_ = ((), 0) if growth.done else (growth.kept, round_ + 1)
                done += growth.done
                continue
        raise UserError(f"{place}: trial {number}: {wrong}; {REMEDY}")


def kept_so_far(order: Sequence[Site], records: Sequence[Record]) -> KeptSets:
    """The kept set of every site: all channels where a search has not come to an end."""
    return {site.name: full_kept(site) for site in order} | {g.site: g.kept for g in growths(records) if g.done}


def search(
    model: Detector, options: ScheduleOptions, evaluator: Evaluator, cost: CostModel, store: Store, display: Display
) -> KeptSets:
    """Run a search to its end, from wherever its records say it stands.

    Args:
        model: the dense detector, which is pruned in place; `evaluator` works on the same object.
        options: the schedule.
        evaluator: scores and AP.
        cost: parameters and multiply-adds.
        store: what is known, and where every proposal goes.
        display: what is told.

    Returns:
        A kept set for every site.
    """
    order = order_sites(list_sites(model), options.schedule)
    check_growths(order, store.records(), store.place)
    baseline = store.baseline()
    if baseline is None:
        baseline = measure_baseline(evaluator)
        store.set_baseline(baseline)
    records = store.records()
    display.begin(order, baseline, records)
    here = position_of(order, baseline, records)
    for site in order[: here.site]:
        if len(here.kept[site.name]) < site.width:
            shrink_site(model, site, here.kept[site.name])
    while here.site < len(order):
        site = order[here.site]
        evaluator.enter(site)
        while site.name not in here.kept:
            record = propose(options, order, baseline, here, evaluator, cost, display)
            store.add(record)
            records.append(record)
            display.recorded(record)
            here = position_of(order, baseline, records)
        if len(here.kept[site.name]) < site.width:
            shrink_site(model, site, here.kept[site.name])
    return here.kept


def measure_baseline(evaluator: Evaluator) -> Baseline:
    """AP of the dense model.

    Raises:
        UserError: it finds nothing, on the subset or on all images: there is no AP that a slim model could hold.
    """
    started, before = time.perf_counter(), evaluator.image_forwards
    subset_map, subset = evaluator.subset_map()
    found = evaluator.all_found(subset)
    full_map = evaluator.full_ap.ap(found)
    ids = [*evaluator.subset.ids, *evaluator.rest.ids]
    if full_map < NOTHING:
        raise UserError(
            f"the dense detector finds nothing (AP {full_map:.4f}), there is no AP to hold: "
            f"{why_nothing(evaluator.coco, ids, found)}"
        )
    if subset_map < NOTHING:
        raise UserError(
            f"on the {len(evaluator.subset)} images of the validation subset the dense detector finds nothing "
            f"(AP {subset_map:.4f}; on all {len(evaluator.subset) + len(evaluator.rest)} it is {full_map:.4f}): "
            f"{why_nothing(evaluator.coco, evaluator.subset.ids, subset)}. Give a larger --subset_images"
        )
    if told := doubt(evaluator.coco, ids, found, full_map):
        print(f"warning: {told}", file=sys.stderr)
    seconds = time.perf_counter() - started
    return Baseline(subset_map, full_map, evaluator.image_forwards - before, seconds)


def propose(
    options: ScheduleOptions,
    order: Sequence[Site],
    baseline: Baseline,
    here: Position,
    evaluator: Evaluator,
    cost: CostModel,
    display: Display,
) -> Record:
    """One round of a site: score candidates, add the best, evaluate."""
    started, before = time.perf_counter(), evaluator.image_forwards
    site, model = order[here.site], evaluator.model
    modular = options.schedule == "modular"
    target = site_target(options, order, here.site, baseline.subset_map if modular else baseline.full_map)
    display.round(site, here.round, len(here.growing), target)

    kept, loss, full_map = full_kept(site), None, here.full_map
    if len(here.growing) + options.kind(site).step >= site.width:
        # All channels are back: the model is the one before this site, whose AP is known.
        subset_map, done = here.subset_map, True
    else:
        candidates = draw_candidates(options, site, here.growing, here.round)
        if len(candidates) * site.unit > options.kind(site).step:
            losses = evaluator.losses(site, here.growing, candidates)
            loss = losses.min().item()
        else:
            losses = torch.zeros(len(candidates))  # all of them are added: there is nothing to choose
        kept = grow(site, here.growing, candidates, losses, options.kind(site).step)
        with slim_site(model, site, kept):
            subset_map, found = evaluator.subset_map()
            if modular:
                done = is_done(options, site, target, subset_map)
                full_map = evaluator.full_map(found) if done else None
            else:
                skipped = skips_full(options, site, target * baseline.subset_ratio, subset_map)
                full_map = None if skipped else evaluator.full_map(found)
                done = is_done(options, site, target, full_map)
    widths = {**cost.full, **{name: len(channels) for name, channels in here.kept.items()}, site.name: len(kept)}
    params, flops = cost(widths)
    return Record(
        origin=Growth(site.name, here.round, kept, loss, done),
        widths=widths,
        subset_map=subset_map,
        full_map=full_map,
        target=target,
        params=params,
        flops=flops,
        image_forwards=evaluator.image_forwards - before,
        seconds=time.perf_counter() - started,
    )
