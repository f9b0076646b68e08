"""Schedules: lists of phases."""

from collections.abc import Callable, Mapping, Sequence

from greedyprune.search.options import SearchOptions
from greedyprune.search.phases.base import Ask, Phase, Proposal, Story, Verdict
from greedyprune.search.phases.budget import BudgetPhase
from greedyprune.search.phases.grow import GpPhase, ModularPhase, attention_first
from greedyprune.search.phases.mend import MendPhase
from greedyprune.search.phases.move import MovePhase
from greedyprune.search.phases.pareto import ParetoPhase
from greedyprune.search.phases.refine import RefinePhase
from greedyprune.sites import AttentionSite, HiddenSite, Site

PHASES: Mapping[str, type[Phase]] = {
    phase.name: phase for phase in (BudgetPhase, MovePhase, MendPhase, ParetoPhase, RefinePhase, GpPhase, ModularPhase)
}
Schedule = Callable[[SearchOptions, Sequence[Site]], list[Phase]]


def _global(options: SearchOptions, sites: Sequence[Site]) -> list[Phase]:
    return [phase(options) for phase in (BudgetPhase, MovePhase, MendPhase, ParetoPhase, RefinePhase)]


def _gp(options: SearchOptions, sites: Sequence[Site]) -> list[Phase]:
    return [GpPhase(options, [site for site in sites if isinstance(site, (AttentionSite, HiddenSite))])]


def _modular(options: SearchOptions, sites: Sequence[Site]) -> list[Phase]:
    order = attention_first([site for site in sites if isinstance(site, (AttentionSite, HiddenSite))])
    return [ModularPhase(options, order)]


# From the options and the searched sites to the phases of a search.
SCHEDULES: Mapping[str, Schedule] = {"global": _global, "gp": _gp, "modular": _modular}

__all__ = ["PHASES", "SCHEDULES", "Ask", "Phase", "Proposal", "Story", "Verdict"]
