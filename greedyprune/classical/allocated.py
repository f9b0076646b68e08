"""`closed_form`: the least damage for the multiply-adds that stay, all sites weighed against each other."""

from dataclasses import dataclass

from greedyprune.classical.base import Method, Pruned, Subject
from greedyprune.errors import UserError
from greedyprune.pruning.bench import Activations
from greedyprune.pruning.cutter import Cutter
from greedyprune.search.allocation import Allocation, FactsInMemory, least_widths
from greedyprune.search.cost import CostModel
from greedyprune.search.options import SearchOptions
from greedyprune.search.saving import Saving


@dataclass(frozen=True)
class Allocated(Method):
    """What a search proposes for a budget: the closed form at widths of least damage, none of it trained.

    The amount is the share of the deployed detector's multiply-adds that goes, for an image as the first one that it
    looks at.
    """

    name: str = "closed_form"
    label: str = "the closed form, all sites weighed for the multiply-adds that stay"
    looks: bool = True

    def prune(self, subject: Subject, amount: float) -> Pruned:
        if self.name not in subject.facts:
            subject.facts[self.name] = self._allocation(subject)
        allocation: Allocation = subject.facts[self.name]
        saving = allocation.saving
        most = 1 - saving.share_with(least_widths(allocation.sites, allocation.options))
        if amount > most:
            raise UserError(f"{self.name}: {amount:g} of the multiply-adds is more than the {most:.3f} that sites have")
        widths, _ = allocation.best_widths(allocation.dense_table(), saving.sites_share(1 - amount))
        return Pruned(allocation.cutter.change(widths))

    def _allocation(self, subject: Subject) -> Allocation:
        batches = subject.scoring or subject.calibration
        images, _ = next(batches.iterate())
        size = images[0].shape[-2], images[0].shape[-1]
        cost = CostModel(subject.family, subject.model, subject.sites, size)
        scoring = Activations(subject.bench, batches, subject.memory, last_only=True)
        cutter = Cutter(subject.given, "basis", True)
        return Allocation(scoring, cutter, Saving(cost, "flops"), SearchOptions(), FactsInMemory())
