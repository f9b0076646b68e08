"""Layers and queries: each is there, or leaves with all its tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from greedyprune.pruning.kinds.base import Kind, SiteCut, State
from greedyprune.pruning.kinds.channels import settings_of
from greedyprune.sites import Change, CountSite
from greedyprune.sites.change import Pairing, place_of

if TYPE_CHECKING:
    from greedyprune.pruning.scorers.given import Given


@dataclass(frozen=True)
class CountCut:
    """The first items of an order stay.

    Attributes:
        site: the site, dense.
        order: items, best first.
    """

    site: CountSite
    order: Sequence[int]

    def change(self, width: int, state: State) -> Change:
        return without(self.site, state, sorted(self.order[:width]))


def without(site: CountSite, state: State, kept: Sequence[int]) -> Change:
    """What leaves of a count only the kept items."""
    if not site.slices and not site.skips:  # the model ranks its items itself, and takes the best
        kept = range(len(kept))
    index = torch.as_tensor(kept, dtype=torch.int64)
    tensors: dict[str, Tensor] = {}
    for part in site.slices:
        tensor = state[part.name].detach()
        tensors[part.name] = tensor.index_select(part.dim, index.to(tensor.device))
    settings: dict[tuple[str, str], object] = dict(settings_of(site.settings, len(kept)))
    gone = [item for item in range(site.full) if item not in set(kept)] if site.skips else []
    for module in (module for item in gone for module in site.skips[item]):
        assert site.replacement is not None
        settings[place_of(module)] = site.replacement()
    answers = frozenset(site.answers[item] for item in gone) if site.answers else frozenset()
    queries = torch.cat([index + site.full * copy for copy in range(site.copies)]) if site.queries else None
    return Change(tensors, settings, Pairing(queries, answers))


class CountKind(Kind[CountSite]):
    """Whole items leave; what is left answers as if they had never been there.

    A layer that is switched off is one that is skipped, which is what the slim model does, too. Queries are switched
    off by leaving them out: in the dense model they would have to be hidden from each other.
    """

    def cut(self, site: CountSite, given: "Given", scorer: str, refit: bool) -> SiteCut:
        return CountCut(site, given.items(site))

    def kept_change(self, site: CountSite, state: State, kept: Sequence[int]) -> Change:
        return without(site, state, kept)

    def masked_change(self, site: CountSite, state: State, kept: Sequence[int]) -> Change:
        return without(site, state, kept)
