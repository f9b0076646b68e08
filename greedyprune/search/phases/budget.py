"""`budget`: the least share of the sites' cost that holds, by halving."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from greedyprune.search.phases.base import Ask, Phase, Proposal, Story
from greedyprune.study.trial import Trial

if TYPE_CHECKING:
    from greedyprune.search.workshop import Workshop

HALVINGS = 6  # of the interval of budgets: the least that holds is found to within 1/64 of what the sites cost


class BudgetPhase(Phase):
    """The interval between the least share of the cost that held and the greatest that did not is halved.

    With a given budget there is one trial, of that.
    """

    name = "budget"
    label = "budget halved"
    colour = "tab:blue"

    def next(self, story: Story) -> Ask | None:
        tried = story.of(self.name)
        if story.budget is not None:
            return None if tried else Ask(0, story.budget)
        return Ask(len(tried), _halved(tried)) if len(tried) < HALVINGS else None

    def propose(self, ask: Ask, story: Story, workshop: "Workshop") -> Proposal:
        widths, predicted = workshop.best_widths(workshop.dense_table(), ask.share)
        return Proposal(widths, workshop.cutter.change(widths), predicted)


def _halved(tried: Sequence[Trial]) -> float:
    low, high = 0.0, 1.0
    for trial in tried:
        asked = (low + high) / 2
        low, high = (low, asked) if trial.holds else (asked, high)
    return (low + high) / 2
