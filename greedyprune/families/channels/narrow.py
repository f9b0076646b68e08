"""Whether a model runs with fewer channels: numbers in its code, as of a split, do not change with them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from greedyprune.sites import Change, HiddenSite, Trimmed, installed

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
    """What a pass says against sites that lose different numbers of units; empty: nothing."""
    state, change = Trimmed.of(model.state_dict()), Change()
    for number, site in enumerate(sites):
        units = site.full // site.unit
        fewer = min(units - site.least // site.unit, 1 + number % 5)
        change = change | state.cut(site, torch.arange(units) >= units - fewer)
    with torch.no_grad(), installed(model, change):
        try:
            forward()
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            return str(error).partition("\n")[0] or type(error).__name__
    return ""
