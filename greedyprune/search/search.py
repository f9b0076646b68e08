"""A search: phases propose, and every proposal is evaluated and recorded, until none has anything more."""

import sys
import time
from collections.abc import Sequence
from typing import Protocol

from greedyprune.errors import UserError
from greedyprune.evaluation.metrics import COCO
from greedyprune.evaluation.nothing import NOTHING, doubt, why_nothing
from greedyprune.pruning.watcher import Watcher
from greedyprune.search.allocation import Facts, least_widths
from greedyprune.search.evaluator import Evaluator
from greedyprune.search.options import SearchOptions
from greedyprune.search.phases import PHASES, Ask, Phase, Story
from greedyprune.search.phases.grow import GrowPhase
from greedyprune.search.saving import Saving
from greedyprune.search.workshop import Workshop
from greedyprune.sites import Change, Site
from greedyprune.study.refusals import REMEDY
from greedyprune.study.trial import Baseline, Trial, last_held


class Store(Facts, Protocol):
    """Where a search keeps what it knows; a study is one."""

    def trials(self) -> list[Trial]: ...

    def add(self, trial: Trial) -> None: ...

    def baseline(self) -> Baseline | None: ...

    def set_baseline(self, baseline: Baseline) -> None: ...


class Display(Watcher, Protocol):
    """What is told while a search runs."""

    def begin(self, baseline: Baseline, trials: Sequence[Trial], aim: str) -> None: ...

    def tried(self, trial: Trial) -> None: ...


class Search:
    """One run of a search, from wherever its trials say it stands.

    Args:
        phases: in their order; one comes after those before it have nothing more to try.
        workshop: what they work with.
        store: what is known, and where every trial goes.
        display: what is told.
    """

    def __init__(self, phases: Sequence[Phase], workshop: Workshop, store: Store, display: Display) -> None:
        self.phases, self.workshop, self.store, self.display = phases, workshop, store, display

    def run(self) -> list[Trial]:
        """Try what the phases ask for to the end; all trials come back."""
        options, saving = self.workshop.options, self.workshop.saving
        baseline = self.store.baseline()
        if baseline is None:
            self.display.doing("AP of the dense model")
            baseline = measured_baseline(self.workshop.evaluator)
            self.store.set_baseline(baseline)
        trials = self.store.trials()
        self.display.begin(baseline, trials, _aim(options, baseline))
        budget = None if options.budget is None else saving.sites_share(options.budget)
        least = self.workshop.share(least_widths(self.workshop.sites, options))
        while (following := self._next(story := Story(baseline, trials, least, budget))) is not None:
            trial = self._tried(*following, story)
            self.store.add(trial)
            trials.append(trial)
            self.display.tried(trial)
        return trials

    def _next(self, story: Story) -> tuple[Phase, Ask] | None:
        for phase in self.phases:
            ask = phase.next(story)
            if ask is not None:
                return phase, ask
        return None

    def _tried(self, phase: Phase, ask: Ask, story: Story) -> Trial:
        workshop = self.workshop
        started, before = time.perf_counter(), workshop.bench.image_forwards
        proposal = phase.propose(ask, story, workshop)
        share = workshop.share(proposal.widths)
        self.display.doing(f"{phase.name}: AP with {share:.1%} of what the sites cost")
        verdict = phase.judge(proposal, story, workshop)
        cost = workshop.saving.cost(proposal.widths)
        return Trial(
            phase=phase.name,
            step=ask.step,
            widths=proposal.widths,
            share=share,
            holds=verdict.holds,
            subset_map=verdict.subset_map,
            full_map=verdict.full_map,
            target=verdict.target,
            params=cost.params,
            flops=cost.flops,
            image_forwards=workshop.bench.image_forwards - before,
            seconds=time.perf_counter() - started,
            predicted=proposal.predicted,
            grown=verdict.grown or proposal.grown,
        )


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """The trial that a search ends with: the last one that holds; None: the dense model."""
    return last_held(trials)


def change_of(trial: Trial, trials: Sequence[Trial], workshop: Workshop) -> Change:
    """What makes the dense model into that of a trial.

    Raises:
        UserError: no phase of that name is known.
    """
    if trial.phase not in PHASES:
        raise UserError(f"a trial of phase {trial.phase!r} is of another version; this one has {', '.join(PHASES)}")
    kind = PHASES[trial.phase]
    phase = kind(workshop.options, ()) if issubclass(kind, GrowPhase) else kind(workshop.options)
    return phase.again(trial, trials, workshop)


def check_trials(phases: Sequence[Phase], baseline: Baseline | None, trials: Sequence[Trial], place: str) -> None:
    """Check that stored trials follow one another as the phases of a search make them.

    Args:
        phases: of the search.
        baseline: the stored measurement of the dense model.
        trials: in order.
        place: the study, for messages.

    Raises:
        UserError: names the first trial that no such search has made.
    """
    known = {phase.name: phase for phase in phases}
    for number, trial in enumerate(trials):
        try:
            if baseline is None:
                raise UserError("is there, and the AP of the dense model is not")
            if trial.phase not in known:
                raise UserError(f"is of phase {trial.phase!r}, and this search has {', '.join(known)}")
            known[trial.phase].check(trial, Story(baseline, trials[:number], 0.0, None))
        except UserError as error:
            raise UserError(f"{place}: trial {number}: {error}; {REMEDY}") from None


def measured_baseline(evaluator: Evaluator) -> Baseline:
    """AP of the dense model.

    Raises:
        UserError: it finds nothing, on the subset or on all images: there is no AP that a slim model could hold.
    """
    started, before = time.perf_counter(), evaluator.bench.image_forwards
    subset_map, subset = evaluator.subset_map()
    found = evaluator.all_found(subset)
    full_map = evaluator.full_ap.ap(found)
    if full_map < NOTHING:
        raise UserError(
            f"the dense detector finds nothing (AP {full_map:.4f}), there is no AP to hold: "
            f"{why_nothing(evaluator.coco, evaluator.ids, found)}"
        )
    if subset_map < NOTHING:
        raise UserError(
            f"on the {len(evaluator.subset)} images of the validation subset the dense detector finds nothing "
            f"(AP {subset_map:.4f}; on all {len(evaluator.ids)} it is {full_map:.4f}): "
            f"{why_nothing(evaluator.coco, evaluator.subset.batches.ids, subset)}. Give a larger --subset_images"
        )
    coco_ap = full_map if evaluator.metric == COCO else None
    if told := doubt(evaluator.coco, evaluator.ids, found, coco_ap):
        print(f"warning: {told}", file=sys.stderr)
    seconds = time.perf_counter() - started
    return Baseline(subset_map, full_map, evaluator.bench.image_forwards - before, seconds)


def check_budget(saving: Saving, sites: Sequence[Site], options: SearchOptions) -> None:
    """Refuse a budget below what the sites cost at their least widths.

    Raises:
        UserError: with the least that is possible.
    """
    least = saving.share_with(least_widths(sites, options))
    if options.budget is not None and options.budget < least:
        raise UserError(
            f"--target_{saving.kind} {options.budget:g} cannot be reached: with every site at its least width the "
            f"model still costs {least:.3f} of the dense one; give a larger share"
        )


def _aim(options: SearchOptions, baseline: Baseline) -> str:
    if options.budget is not None:
        return f"the best with {options.budget:.1%} of its {options.cost} is wanted"
    by = "" if options.metric == COCO else f" by --metric {options.metric}"
    return f"{(1 - options.map_tol) * baseline.full_map:.4f}{by} is to be held"
