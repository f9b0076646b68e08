"""Channels of convolutions by what images say: `basis`, `taylor`, `sensitivity`, and others of the engine's scorers."""

from dataclasses import dataclass

from greedyprune.classical.base import Method, Pruned, Subject
from greedyprune.classical.widths import MULTIPLE, kept_widths
from greedyprune.pruning.cutter import Cutter


@dataclass(frozen=True)
class Scored(Method):
    """Channels that a scorer puts last are cut, the same share of each convolution.

    Attributes:
        scorer: its name.
        refit: what reads the kept channels is solved again: with the scorer `basis` this is the closed form.
        multiple: widths are rounded down to a multiple of it.
    """

    name: str
    label: str
    scorer: str
    labelled: bool = False
    refit: bool = False
    multiple: int = MULTIPLE
    looks: bool = True

    def prune(self, subject: Subject, amount: float) -> Pruned:
        widths = kept_widths(subject, subject.convolutions, amount, self.multiple)
        return Pruned(Cutter(subject.given, self.scorer, self.refit).change(widths))
