"""`refine`: proposals of Optuna's samplers, which go on from the trials of the search."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection

from greedyprune.search.phases.base import FIT, Ask, Phase, Proposal, Story
from greedyprune.study.distributions import width_distributions
from greedyprune.study.trial import Baseline, Trial, last_held

if TYPE_CHECKING:
    from greedyprune.search.workshop import Workshop


class RefinePhase(Phase):
    """What a sampler proposes after the trials: a pure function of them, the options and the seed.

    A study in memory is told the dense model and every trial that was not mended, each enqueued as if the sampler had
    proposed it, and is then asked once with a seed of its own.
    """

    name = "refine"
    label = "by a sampler"
    colour = "tab:purple"

    def next(self, story: Story) -> Ask | None:
        tried = len(story.of(self.name))
        return Ask(tried) if tried < self.options.refine else None

    def propose(self, ask: Ask, story: Story, workshop: "Workshop") -> Proposal:
        ranges = width_distributions(workshop.sites, self.options.step)
        dense = {site.name: site.full for site in workshop.sites}
        widths = self.sampled(ask.step, story, dense, ranges)
        return Proposal(widths, workshop.cutter.change(widths))

    def measures_all(self) -> bool:
        return self.options.sampler == "nsgaii" or super().measures_all()

    def rival(self, story: Story) -> Trial | None:
        return last_held(story.trials)

    def sampled(
        self, number: int, story: Story, dense: dict[str, int], ranges: dict[str, BaseDistribution]
    ) -> dict[str, int]:
        """Width by site name.

        Args:
            number: of the proposal.
            story: what the sampler is told.
            dense: the dense widths.
            ranges: of every site's width.
        """
        told = [(dense, story.baseline.full_map, 1.0)]
        told += [(t.widths, _ap(t, story.baseline), t.share) for t in story.trials if t.phase != "mend"]
        sampler, directions = self._samplers(first=len(told) - number)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(directions=directions, sampler=sampler(0))
        for widths, ap, share in told:
            study.enqueue_trial(widths)
            trial = study.ask(ranges)
            _ = trial.relative_params  # as for a trial of its own: NSGA-II counts generations here
            study.tell(trial, (ap, share) if len(directions) == 2 else self._value(story, ap, share))
        seed = np.random.SeedSequence([self.options.seed, number]).generate_state(1)
        study.sampler = sampler(int(seed[0]))
        chosen = study.ask(ranges).params
        return {name: int(chosen[name]) for name in ranges}

    def _samplers(self, first: int) -> tuple[Callable[[int], BaseSampler], Sequence[StudyDirection]]:
        """A sampler for a seed, and the directions of its objectives; `first` trials are not of the sampler."""
        if self.options.sampler == "nsgaii":
            size = max(2, first)
            both = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
            return lambda seed: optuna.samplers.NSGAIISampler(population_size=size, seed=seed), both
        return lambda seed: optuna.samplers.TPESampler(n_startup_trials=1, seed=seed), [StudyDirection.MAXIMIZE]

    def _value(self, story: Story, ap: float, share: float) -> float:
        """What TPE maximises: first that the tolerance or the budget holds, then what is searched for within it."""
        if story.budget is not None:
            return ap if share <= story.budget * FIT else story.budget - share
        return 2 - share if ap >= self.target(story) else ap


def _ap(trial: Trial, baseline: Baseline) -> float:
    """AP on all images; of a trial that was skipped early, as the subset's lets it be guessed."""
    if trial.full_map is not None:
        return trial.full_map
    return trial.subset_map * (baseline.full_map / baseline.subset_map if baseline.subset_map > 0 else 1.0)
