"""Whether a model answers with fewer channels as with these at zero: numbers in its code do not change with them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.families.channels.tracer import tensors_of
from greedyprune.sites import Change, HiddenSite, Trimmed, installed

CLOSE = 1e-3  # of the largest of what is answered
REASON = "has its number of channels in the model's code: "


def fitting(
    model: nn.Module, sites: Sequence[HiddenSite], forward: Callable[[], Any]
) -> tuple[list[HiddenSite], dict[str, str]]:
    """The sites that can all be narrower at once, and of the others why they cannot.

    One pass tells as a rule; only where it fails sites are tried one after another.

    Args:
        model: as it is; it is not changed.
        sites: front to back.
        forward: runs it.
    """
    if not _refused(model, sites, forward):
        return list(sites), {}
    kept: list[HiddenSite] = []
    why: dict[str, str] = {}
    for site in sites:
        if refused := _refused(model, [*kept, site], forward):
            why[site.name] = REASON + refused
        else:
            kept.append(site)
    return kept, why


def _refused(model: nn.Module, sites: Sequence[HiddenSite], forward: Callable[[], Any]) -> str:
    """What is wrong without some units of sites, of each another number; empty: nothing.

    On the `meta` device it is only whether shapes fit.
    """
    dense = model.state_dict()
    state, change, off = Trimmed.of(dense), Change(), dict(dense)
    for number, site in enumerate(sites):
        units = site.full // site.unit
        pruned = torch.arange(units) >= units - min(units - site.least // site.unit, 1 + number % 5)
        change = change | state.cut(site, pruned)
        for part in site.slices:
            if not part.output:
                where = site.positions(part, dense[part.name].shape[part.dim])[pruned].flatten()
                off[part.name] = off[part.name].index_fill(part.dim, where.to(off[part.name].device), 0)
    masked = Change({name: tensor for name, tensor in off.items() if tensor is not dense[name]})
    with torch.no_grad():
        with installed(model, masked):
            wanted = tensors_of(forward())
        with installed(model, change):
            try:
                found = tensors_of(forward())
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                return str(error).partition("\n")[0] or type(error).__name__
    return "" if all(map(_same, found, wanted)) else "it answers otherwise with fewer of them"


def _same(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape or found.is_meta or not found.is_floating_point():
        return found.shape == wanted.shape
    apart = (found - wanted).nan_to_num(0.0, 0.0, 0.0).abs().max()
    return bool(apart <= CLOSE * wanted.nan_to_num(0.0, 0.0, 0.0).abs().max())
