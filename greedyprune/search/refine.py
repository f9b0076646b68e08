"""Widths from Optuna's samplers, which go on from the trials of a search."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection

from greedyprune.search.record import Baseline, Record
from greedyprune.search.steps import GlobalOptions, is_mended, proposals, share_of
from greedyprune.search.trials import width_distributions


def refined_widths(
    options: GlobalOptions,
    budget_share: float | None,
    sites: Mapping[str, tuple[int, int]],
    records: Sequence[Record],
    baseline: Baseline,
) -> dict[str, int]:
    """What the sampler proposes after these trials: a pure function of them, the options and the seed.

    A study in memory is told the dense model and every trial that was not mended, each enqueued as if the sampler had
    proposed it, and is then asked once with a seed of its own.

    Args:
        options: the schedule.
        budget_share: the given budget as a share of the sites' cost; None: there is none.
        sites: site name -> its dense width and the step of its width.
        records: the trials in order.
        baseline: the dense model as measured.

    Returns:
        Width by site name.
    """
    ranges: dict[str, BaseDistribution] = {
        name: json_to_distribution(text) for name, text in width_distributions(sites).items()
    }
    told = [({name: width for name, (width, _) in sites.items()}, baseline.full_map, 1.0)]
    told += [(r.widths, _ap(r, baseline), share_of(r)) for r in records if not is_mended(r)]
    number = len(proposals(records, "refine"))
    sampler, directions = _samplers(options, first=len(told) - number)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=directions, sampler=sampler(0))
    for widths, ap, share in told:
        study.enqueue_trial(widths)
        trial = study.ask(ranges)
        _ = trial.relative_params  # as for a trial of its own: NSGA-II counts generations here
        if len(directions) == 2:
            study.tell(trial, (ap, share))
        else:
            study.tell(trial, _value(options, budget_share, baseline, ap, share))
    seed = np.random.SeedSequence([options.seed, number]).generate_state(1)
    study.sampler = sampler(int(seed[0]))
    chosen = study.ask(ranges).params
    return {name: int(chosen[name]) for name in sites}


def _samplers(options: GlobalOptions, first: int) -> tuple[Callable[[int], BaseSampler], list[StudyDirection]]:
    """A sampler for a seed, and the directions of its objectives; `first` trials are not of the sampler."""
    if options.sampler == "nsgaii":
        size = max(2, first)
        both = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
        return lambda seed: optuna.samplers.NSGAIISampler(population_size=size, seed=seed), both
    return lambda seed: optuna.samplers.TPESampler(n_startup_trials=1, seed=seed), [StudyDirection.MAXIMIZE]


def _ap(record: Record, baseline: Baseline) -> float:
    """AP on all images; of a trial that was skipped early, as the subset's lets it be guessed."""
    if record.full_map is not None:
        return record.full_map
    return record.subset_map * (baseline.full_map / baseline.subset_map if baseline.subset_map > 0 else 1.0)


def _value(options: GlobalOptions, budget_share: float | None, baseline: Baseline, ap: float, share: float) -> float:
    """What TPE maximises: first that the tolerance or the budget holds, then what is searched for within it."""
    if budget_share is not None:
        return ap if share <= budget_share * (1 + 1e-9) else budget_share - share
    return 2 - share if ap >= (1 - options.map_tol) * baseline.full_map else ap
