"""`mend`: narrower models that learn the dense model's answers."""

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING

import numpy as np

from greedyprune.search.phases.base import Ask, Phase, Proposal, Story
from greedyprune.sites import Change
from greedyprune.study.trial import Trial, last_held

if TYPE_CHECKING:
    from greedyprune.search.workshop import Workshop

HEALED = 4.9  # times the damage that the best unmended widths do is what mended ones are first tried with
PACE = 0.04  # share of the sites' cost by which mended widths get narrower while all held
FAILURES = 3  # after so many the phase is at its end


class MendPhase(Phase):
    """Mended widths whose damage, unmended, is `HEALED` times that of the best; then narrower ones while they hold.

    Mending is dear, so as few as are wanted are tried: what fails is followed by something wider. With a given budget
    there is one, of that.
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
        if held >= self.options.mend.hold or len(mended) - held >= FAILURES:
            return None
        unmended = last_held(story.of("budget", "move"))
        low, high = 0.0, 1.0 if unmended is None else unmended.share
        asked = _healed_share(unmended, story.of("budget"))
        for trial in mended:
            if trial.holds:
                high = asked
                asked = (low + high) / 2 if low else high - PACE
            else:
                low = asked
                asked = low + self._missing_share(trial, low)
                asked = asked if asked < high else (low + high) / 2
        return Ask(len(mended), asked) if high - low > PACE / 4 and asked > 0 else None

    def propose(self, ask: Ask, story: Story, workshop: "Workshop") -> Proposal:
        widths, predicted = workshop.best_widths(workshop.dense_table(), ask.share)
        return Proposal(widths, workshop.mended(widths), predicted)

    def again(self, trial: Trial, trials: Sequence[Trial], workshop: "Workshop") -> Change:
        return workshop.mended(trial.widths)

    def _missing_share(self, trial: Trial, share: float) -> float:
        """How much wider what failed must be: towards the dense AP, the AP rises no slower at first than later."""
        if trial.full_map is None:
            return 2 * PACE
        dense = trial.target / (1 - self.options.map_tol)
        return (1 - share) * (trial.target - trial.full_map) / max(dense - trial.full_map, 1e-9)


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
