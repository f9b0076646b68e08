"""`pareto`: proposals that spread over all budgets."""

from itertools import pairwise
from typing import TYPE_CHECKING

from greedyprune.search.phases.base import Ask, Phase, Proposal, Story
from greedyprune.study.trial import Trial, last_held

if TYPE_CHECKING:
    from greedyprune.search.workshop import Workshop


class ParetoPhase(Phase):
    """The middle of the widest gap between shares whose AP is known, dense among them.

    It does not depend on how many are asked for: asking for more later ends with the same trials.
    """

    name = "pareto"
    label = "spread over budgets"
    colour = "tab:green"

    def next(self, story: Story) -> Ask | None:
        tried = len(story.of(self.name))
        return Ask(tried, _widest_gap(story)) if tried < self.options.pareto else None

    def propose(self, ask: Ask, story: Story, workshop: "Workshop") -> Proposal:
        widths, predicted = workshop.best_widths(workshop.dense_table(), ask.share)
        return Proposal(widths, workshop.cutter.change(widths), predicted)

    def measures_all(self) -> bool:
        return True

    def rival(self, story: Story) -> Trial | None:
        return last_held(story.trials)


def _widest_gap(story: Story) -> float:
    unmended = [t for t in story.trials if t.full_map is not None and t.share > story.least and t.phase != "mend"]
    known = sorted({story.least, *(trial.share for trial in unmended), 1.0})
    _, low, high = max((high - low, low, high) for low, high in pairwise(known))
    return (low + high) / 2
