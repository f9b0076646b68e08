"""Tensors of which cuts have left only a part, and where the rest of the dense model's channels are in them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from greedyprune.sites.change import Change
from greedyprune.sites.site import Site

Dimension = tuple[str, int]  # a tensor's name, and the number of one of its dimensions


class Trimmed(dict[str, Tensor]):
    """Tensors by name, of whose dimensions cuts have left only a part.

    Cuts of several sites in one tensor give the same in any order.

    Args:
        tensors: as they are.
        left: which of the dense positions are left, ascending; a dimension that is not named is whole.
    """

    def __init__(self, tensors: Mapping[str, Tensor], left: Mapping[Dimension, Tensor]) -> None:
        super().__init__(tensors)
        self.left = dict(left)

    @classmethod
    def of(cls, state: Mapping[str, Tensor], change: Change | None = None) -> "Trimmed":
        """Tensors with a change put on them."""
        left = state.left if isinstance(state, Trimmed) else {}
        return cls({**state, **change.tensors}, {**left, **change.left}) if change else cls(state, left)

    def positions(self, name: str, dim: int) -> Tensor:
        """`[n]` int64, ascending: the dense positions that are left in a dimension."""
        left = self.left.get((name, dim))
        return torch.arange(self[name].shape[dim]) if left is None else left

    def cut(self, site: Site, pruned: Tensor) -> Change:
        """Take the pruned units `[units]` of a site out of its tensors; what has changed is returned."""
        tensors: dict[str, Tensor] = {}
        left: dict[Dimension, Tensor] = {}
        for part in site.slices:
            tensor, there = self[part.name].detach(), self.positions(part.name, part.dim)
            stays = ~torch.isin(there, site.positions(part, len(there))[pruned].flatten())
            tensor = tensor.index_select(part.dim, torch.nonzero(stays).flatten().to(tensor.device))
            self[part.name] = tensors[part.name] = tensor
            self.left[part.name, part.dim] = left[part.name, part.dim] = there[stays]
        kept = site.unit * int((~pruned).sum())
        settings = {
            (each.module, each.attribute): (len(self[each.tensor]) if each.tensor else kept) // each.per
            for each in site.settings
        }
        return Change(tensors, settings, left=left)
