"""`move`: channels go from one site to another, by a damage table around the best trial."""

from typing import TYPE_CHECKING

from greedyprune.search.phases.base import Ask, Phase, Proposal, Story
from greedyprune.study.trial import Trial, last_held

if TYPE_CHECKING:
    from greedyprune.search.workshop import Workshop

PACES = (0.04, 0.02, 0.01)  # shares of the sites' cost that a move tries to save, one after another


class MovePhase(Phase):
    """From the best unmended trial moves try to save `PACES` of the cost, a smaller pace after each that did not hold.

    It ends when the smallest pace has failed or the rounds are spent. Within a given budget moves save nothing, and the
    first that is no better is the last.
    """

    name = "move"
    label = "channels moved"
    colour = "tab:orange"

    def next(self, story: Story) -> Ask | None:
        best, moves = self._best(story), story.of(self.name)
        if best is None or len(moves) >= self.options.moves or story.of("mend"):
            return None
        failed = 0
        for move in moves:
            failed = 0 if move.holds else failed + 1
        if story.budget is not None:
            return None if failed else Ask(len(moves), story.budget)
        return Ask(len(moves), best.share - PACES[failed]) if failed < len(PACES) else None

    def propose(self, ask: Ask, story: Story, workshop: "Workshop") -> Proposal:
        best = self._best(story)
        assert best is not None
        table = workshop.table_around(best, f"trial {list(story.trials).index(best)}")
        widths, predicted = workshop.best_widths(table, ask.share)
        return Proposal(widths, workshop.cutter.change(widths), predicted)

    def rival(self, story: Story) -> Trial | None:
        return last_held(story.trials)

    @staticmethod
    def _best(story: Story) -> Trial | None:
        return last_held(story.of("budget", "move"))
