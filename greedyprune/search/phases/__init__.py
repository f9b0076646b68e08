"""Schedules: lists of phases."""

from collections.abc import Callable, Sequence

from greedyprune.search import options as names
from greedyprune.search.options import SearchOptions
from greedyprune.search.phases.base import Ask, Phase, Proposal, Story, Verdict
from greedyprune.search.phases.budget import BudgetPhase
from greedyprune.search.phases.grow import GpPhase, ModularPhase, attention_first
from greedyprune.search.phases.mend import MendPhase
from greedyprune.search.phases.move import MovePhase
from greedyprune.search.phases.pareto import ParetoPhase
from greedyprune.search.phases.refine import RefinePhase
from greedyprune.sites import AttentionSite, HiddenSite, Site

PHASES: dict[str, type[Phase]] = {
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
SCHEDULES: dict[str, Schedule] = {"global": _global, "gp": _gp, "modular": _modular}


def register(schedule: str, *phases: type[Phase]) -> None:
    """Make a schedule known: phases in their order, by the name that `--schedule` and `SearchOptions.schedule` take.

    Phases that are not known yet become so.

    Args:
        schedule: its name.
        phases: each is made from the options alone.

    Raises:
        ValueError: there is a schedule of that name, or another phase of the same name.
    """
    if schedule in SCHEDULES:
        raise ValueError(f"there is a schedule {schedule} already")
    for phase in phases:
        if PHASES.setdefault(phase.name, phase) is not phase:
            raise ValueError(f"there is another phase {phase.name} already")
    SCHEDULES[schedule] = lambda options, sites: [phase(options) for phase in phases]
    names.SCHEDULES.append(schedule)


__all__ = ["PHASES", "SCHEDULES", "Ask", "Phase", "Proposal", "Story", "Verdict", "register"]
