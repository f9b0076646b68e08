"""`filter_l1`: of every convolution the filters with the smallest sum of |w| leave, the same share of each."""

from dataclasses import dataclass

from greedyprune.classical.base import Method, Pruned, Subject
from greedyprune.classical.rows import zeroed_rows
from greedyprune.classical.widths import MULTIPLE, kept_widths
from greedyprune.pruning.kept import kept_from_units
from greedyprune.pruning.scorers.filters import filter_l1
from greedyprune.pruning.transplant import KeptSets, kept_change


@dataclass(frozen=True)
class FilterL1(Method):
    """Li et al. 2017: filters are cut, with their norms and with what reads them.

    Attributes:
        multiple: widths are rounded down to a multiple of it.
    """

    name: str = "filter_l1"
    label: str = "filters of small sum of |w|"
    multiple: int = MULTIPLE

    def prune(self, subject: Subject, amount: float) -> Pruned:
        return Pruned(kept_change(subject.sites, subject.model.state_dict(), self._kept(subject, amount)))

    def published(self, subject: Subject, amount: float) -> Pruned:
        """Only the filters' own weights are zero: a constant is left of each, which is read as before."""
        return zeroed_rows(subject, self._kept(subject, amount))

    def _kept(self, subject: Subject, amount: float) -> KeptSets:
        state, sites = subject.model.state_dict(), subject.convolutions
        widths = kept_widths(subject, sites, amount, self.multiple)
        return {site.name: kept_from_units(site, filter_l1(site, state), widths[site.name]) for site in sites}
