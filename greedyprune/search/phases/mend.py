"""`mend`: narrower models that learn the dense model's answers."""

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING

import numpy as np

from greedyprune.search.phases.base import Ask, Phase, Proposal, Story
from greedyprune.sites import Change
from greedyprune.study.trial import Baseline, Trial, last_held

if TYPE_CHECKING:
    from greedyprune.search.workshop import Workshop

HEALED = 4.9  # times the damage that the best unmended widths do is what mended ones are first tried with
PACE = 0.04  # share of the sites' cost by which mended widths get narrower while all held
FAILURES = 3  # after so many the phase is at its end
FALL = 3  # what mended models lose grows with this power of the share that is gone, or a higher one


class MendPhase(Phase):
    """Mended widths whose damage, unmended, is `HEALED` times that of the best; then narrower ones while they hold.

    Mending is dear, so as few as are wanted are tried: what fails is followed by something wider, and what holds with
    much to spare by one that is narrower. With a given budget there is one, of that.
    """

    name = "mend"
    label = "mended"
    colour = "tab:red"
    own_model = True

    def next(self, story: Story) -> Ask | None:
        if not self.options.mends:
            return None
        mended = story.of(self.name)
        if story.budget is not None:
            return None if mended else Ask(0, story.budget)
        held = sum(trial.holds for trial in mended)
        if held > self.options.mend.hold or len(mended) - held >= FAILURES:
            return None
        unmended = last_held(story.of("budget", "move"))
        low, high = 0.0, 1.0 if unmended is None else unmended.share
        asked = guess = _healed_share(unmended, story.of("budget"))
        for trial in mended:
            guess = self._guess(trial, asked, story.baseline)
            if trial.holds:
                high = asked
                asked = (low + high) / 2 if low else high - PACE
            else:
                low = asked
                asked = guess if low < guess < high else (low + high) / 2
        if held < self.options.mend.hold:
            return Ask(len(mended), asked) if high - low > PACE / 4 and asked > 0 else None
        asked = guess if low < guess else (low + high) / 2
        return Ask(len(mended), asked) if mended[-1].holds and high - asked > PACE and asked > 0 else None

    def propose(self, ask: Ask, story: Story, workshop: "Workshop") -> Proposal:
        widths, predicted = workshop.best_widths(workshop.dense_table(), ask.share)
        return Proposal(widths, workshop.mended(widths), predicted)

    def again(self, trial: Trial, trials: Sequence[Trial], workshop: "Workshop") -> Change:
        return workshop.mended(trial.widths)

    def _guess(self, trial: Trial, share: float, dense: Baseline) -> float:
        """The share of which as much AP is lost as may be, from a mended trial of another."""
        own, whole = trial.full_map, dense.full_map
        if own is None:
            own, whole = trial.subset_map, dense.subset_map
        lost = max(1 - own / whole, self.options.map_tol / 10, 1e-9)
        guess = 1 - (1 - share) * (self.options.map_tol / lost) ** (1 / FALL)
        return guess if guess < share or not trial.holds else share


def _healed_share(unmended: Trial | None, tried: Sequence[Trial]) -> float:
    """Where the damage that the table predicts is `HEALED` times that of the best; its logarithm is linear between."""
    known = sorted({t.share: t.predicted for t in tried if t.predicted}.items())  # coarse steps give a share twice
    if unmended is None or len(known) < 2:
        return max((trial.share for trial in tried), default=1.0)
    shares, logs = [share for share, _ in known], [log(damage) for _, damage in known]
    aim = np.interp(unmended.share, shares, logs) + log(HEALED)
    # Beyond the least share that was tried the damage rises as between the two least.
    slope = min((logs[1] - logs[0]) / (shares[1] - shares[0]), -1e-9)
    beyond = shares[0] + (aim - logs[0]) / slope
    return float(beyond if aim > logs[0] else np.interp(-aim, [-each for each in logs], shares))
