"""The `global` schedule: every site weighed against every other, for a tolerance or a budget of the whole model."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.models.detector import Detector
from greedyprune.pruning.damage import DamageTable, width_grid
from greedyprune.pruning.prefix import site_place
from greedyprune.pruning.sites import Site
from greedyprune.pruning.transplant import replaced
from greedyprune.search.cutter import Cutter
from greedyprune.search.evaluator import Evaluator
from greedyprune.search.loop import Store
from greedyprune.search.record import Baseline, Proposal, Record
from greedyprune.search.refine import refined_widths
from greedyprune.search.saving import Saving
from greedyprune.search.steps import GlobalOptions, Step, best_record, check_proposals, next_step, same_model, share_of
from greedyprune.search.stored import check_numbers

TRUST = 2  # steps by which one move may change a site's width


class FactStore(Store, Protocol):
    """Where a search keeps what it knows; `Study` is one."""

    def facts(self) -> dict[str, Any]: ...

    def set_fact(self, key: str, value: Any) -> None: ...


class GlobalDisplay(Protocol):
    """What is told while a search runs."""

    def begin(self, baseline: Baseline, records: Sequence[Record], aim: str) -> None: ...

    def doing(self, text: str) -> None: ...

    def proposed(self, record: Record) -> None: ...


class GlobalSearch:
    """One run of the search, from wherever its records say it stands.

    Args:
        model: a copy of the dense detector, whose tensors change while it is searched; `evaluator` works on it.
        cutter: makes slim models of the dense detector.
        options: the schedule.
        evaluator: losses and AP.
        saving: what sites cost.
        store: what is known, and where every proposal goes.
        display: what is told.
    """

    def __init__(
        self,
        model: Detector,
        cutter: Cutter,
        options: GlobalOptions,
        evaluator: Evaluator,
        saving: Saving,
        store: FactStore,
        display: GlobalDisplay,
    ) -> None:
        self.model, self.cutter, self.options = model, cutter, options
        self.evaluator, self.saving, self.store, self.display = evaluator, saving, store, display
        self.sites = list(cutter.given.sites)
        self.dense_answers = evaluator.answers()

    def run(self, baseline: Baseline) -> Record | None:
        """Evaluate and record proposals until the search is at its end; the best one comes back, None: dense.

        Args:
            baseline: the dense model as measured.
        """
        records = self.store.records()
        check_proposals(records, self.store.place)
        budget = self._budget_share()
        least = self.saving.of_sites(least_widths(self.sites, self.options.step)) / self.saving.sites
        aim = f"{self._target(baseline):.4f} is to be held"
        if self.options.budget is not None:
            aim = f"the best with {self.options.budget:.1%} of its {self.options.cost} is wanted"
        self.display.begin(baseline, records, aim)
        while (step := next_step(self.options, budget, records, least)) is not None:
            record = self.propose(step, records, baseline)
            self.store.add(record)
            records.append(record)
            self.display.proposed(record)
        return best_record(records)

    def propose(self, step: Step, records: Sequence[Record], baseline: Baseline) -> Record:
        """Widths for a step, evaluated."""
        started, before = time.perf_counter(), self.evaluator.image_forwards
        best = best_record(records)
        centre = best if step.phase == "move" else None
        widths, predicted = self._widths(step, centre, records, baseline)
        target = self._target(baseline)
        share = self.saving.of_sites(widths) / self.saving.sites
        known = None if step.phase == "mend" else same_model(widths, records)
        # What spreads over the front is measured wherever it lies.
        skip = step.phase != "pareto" and (step.phase, self.options.sampler) != ("refine", "nsgaii")
        if known is not None and (skip or known.full_map is not None):
            subset_map, full_map = known.subset_map, known.full_map
        else:
            self.display.doing(f"{step.phase}: AP with {share:.1%} of what the sites cost")
            tensors = self.cutter.mended(widths) if step.phase == "mend" else self.cutter.tensors(widths)
            subset_map, full_map = self._evaluate(widths, tensors, target, baseline, skip)
        if full_map is None:
            holds = False
        elif self.options.budget is not None:
            within = self.saving.share_with(widths) <= self.options.budget * (1 + 1e-9)
            holds = within and (best is None or best.full_map is None or full_map > best.full_map)
        else:
            rival = best if step.phase in ("move", "pareto", "refine") else None
            holds = full_map >= target and (rival is None or share < share_of(rival))
        params, flops = self.saving.cost(widths)
        return Record(
            origin=Proposal(step.phase, step.number, share, predicted, holds),
            widths=widths,
            subset_map=subset_map,
            full_map=full_map,
            target=target,
            params=params,
            flops=flops,
            image_forwards=self.evaluator.image_forwards - before,
            seconds=time.perf_counter() - started,
        )

    def _widths(
        self, step: Step, centre: Record | None, records: Sequence[Record], baseline: Baseline
    ) -> tuple[dict[str, int], float | None]:
        """The widths that a step asks for, and the damage that they should do where a table chose them."""
        if step.phase == "refine":
            ranges = {site.name: (site.width, self.options.step(site.kind)) for site in self.sites}
            return refined_widths(self.options, self._budget_share(), ranges, records, baseline), None
        table = self.damage_table(centre, records)
        return table.best_widths(self.saving.of_site, self.saving.of_sites, step.share * self.saving.sites)

    def _budget_share(self) -> float | None:
        return None if self.options.budget is None else self.saving.sites_share(self.options.budget)

    def damage_table(self, centre: Record | None, records: Sequence[Record]) -> DamageTable:
        """The damage table around a model; each site's row is in the study from when it was measured.

        Args:
            centre: the trial whose sites are changed, one at a time, by up to `TRUST` steps; None: the dense model,
                whose sites are cut to shares of their width.
            records: the trials in order, to name the centre by its number.
        """
        name = "dense" if centre is None else f"trial {records.index(centre)}"
        keys = {site.name: f"damage from {name}, {site.name}" for site in self.sites}
        known = self.store.facts()
        missing = [site for site in self.sites if keys[site.name] not in known]
        if missing:
            around = {site.name: site.width for site in self.sites} if centre is None else centre.widths
            with self.installed(around, self.cutter.tensors(around)):
                base = self.evaluator.damage(self.dense_answers)
                for site in missing:
                    row = self._damages(site, self._widths_around(site, centre), around, base)
                    known[keys[site.name]] = row
                    self.store.set_fact(keys[site.name], row)
        points = {}
        for site in self.sites:
            widths = self._widths_around(site, centre)
            points[site.name] = (
                widths,
                check_numbers(known[keys[site.name]], len(widths), keys[site.name], self.store.place),
            )
        return DamageTable(points, {site.name: self.options.step(site.kind) for site in self.sites})

    @contextmanager
    def installed(self, widths: Mapping[str, int], tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """The tensors of these widths inside the model."""
        again = self.evaluator.reload if self.cutter.cuts_backbone(widths) else self.evaluator.restart
        with replaced(self.model, tensors):
            again()
            yield
        again()

    def _widths_around(self, site: Site, centre: Record | None) -> list[int]:
        step = self.options.step(site.kind)
        if centre is None:
            return width_grid(site, step)
        near = (centre.widths[site.name] + step * offset for offset in range(-TRUST, TRUST + 1))
        return sorted({min(site.width, width) for width in near if width >= step})

    def _damages(self, site: Site, widths: Sequence[int], around: Mapping[str, int], base: float) -> list[float]:
        """Damage of a site's widths, beyond that of the model inside, whose widths are `around`."""
        self.display.doing(f"damage of {site.name} ({self.sites.index(site) + 1} of {len(self.sites)})")
        score, backbone = self.evaluator.score, site.part == "backbone"
        # The two widths of a bottleneck share a convolution: they are cut together.
        block = (site.part, site.layer)
        together = [s.name for s in self.sites if (s.part, s.layer) == block] if backbone else [site.name]
        if not backbone:
            self.evaluator.image_forwards += score.move(self.model, site_place(site))
        row = []
        for width in widths:
            if width == around[site.name]:
                row.append(0.0)
                continue
            cut = {**around, site.name: width}
            with replaced(self.model, self.cutter.tensors({name: cut[name] for name in together})):
                if backbone:
                    score.reload(self.model)
                row.append(self.evaluator.damage(self.dense_answers) - base)
        if backbone:
            score.reload(self.model)
        return row

    def _target(self, baseline: Baseline) -> float:
        return (1 - self.options.map_tol) * baseline.full_map

    def _evaluate(
        self,
        widths: Mapping[str, int],
        tensors: Mapping[str, Tensor],
        target: float,
        baseline: Baseline,
        skip: bool,
    ) -> tuple[float, float | None]:
        skip = skip and self.options.budget is None
        least = (1 - self.options.skip_eval_converge) * target * baseline.subset_ratio if skip else 0.0
        with self.installed(widths, tensors):
            subset_map, found = self.evaluator.subset_map()
            return subset_map, None if subset_map < least else self.evaluator.full_map(found)


def least_widths(sites: Sequence[Site], step: Callable[[str], int]) -> dict[str, int]:
    """The least width of every site, given the step of each kind."""
    return {site.name: width_grid(site, step(site.kind))[0] for site in sites}


def check_budget(saving: Saving, sites: Sequence[Site], step: Callable[[str], int], budget: float) -> None:
    """Refuse a budget below what the sites cost at their least widths.

    Raises:
        UserError: with the least that is possible.
    """
    least = saving.share_with(least_widths(sites, step))
    if budget < least:
        raise UserError(
            f"--target_{saving.kind} {budget:g} cannot be reached: with every site at its least width the model still "
            f"costs {least:.3f} of the dense one; give a larger share"
        )
