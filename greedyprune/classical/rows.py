"""Zeros in the place of filters, as published code writes them: nothing gets smaller, and what a cut would leave."""

from collections.abc import Mapping

import torch
from torch import Tensor

from greedyprune.classical.base import Pruned, Subject
from greedyprune.pruning.kinds.channels import channels_of
from greedyprune.pruning.scorers.filters import tensor_of_units
from greedyprune.pruning.transplant import KeptSets, kept_change
from greedyprune.sites import Change, HiddenSite


def zeroed(subject: Subject, rows: Mapping[str, Tensor]) -> Pruned:
    """Convolutions with zeros for the filters that go; their norms and what reads them stay as they are.

    Args:
        subject: the detector.
        rows: weight name -> `[filters]` bool, True where a filter stays.

    Returns:
        The zeros, and the cut of all channels that only zeroed filters write.
    """
    state = subject.model.state_dict()
    kept = {name: _wide(each, state[name]) for name, each in rows.items()}
    tensors = {name: torch.where(each, state[name], 0.0) for name, each in kept.items()}
    return Pruned(Change(tensors), kept, kept_change(subject.sites, state, _channels(subject, kept)))


def zeroed_rows(subject: Subject, channels: KeptSets) -> Pruned:
    """The same from kept sets of sites, whose writers' other rows become zero."""
    state, rows = subject.model.state_dict(), {}
    for site in subject.convolutions:
        if site.name in channels:
            for name in _writers(subject, site):
                part = next(each for each in site.slices if each.name == name)
                stays = torch.ones_like(state[name], dtype=torch.bool)
                gone = site.positions(part, stays.shape[part.dim])[site.pruned(channels[site.name])]
                stays.movedim(part.dim, 0)[gone.flatten()] = False
                rows[name] = stays.flatten(1).any(1)
    return zeroed(subject, rows)


def _channels(subject: Subject, kept: Mapping[str, Tensor]) -> KeptSets:
    """What sites keep when only filters that are all zero leave; one unit stays in any case."""
    found: KeptSets = {}
    for site in subject.convolutions:
        writers = _writers(subject, site)
        if not all(name in kept for name in writers):
            continue
        parts = {part.name: part for part in site.slices}
        stays = torch.stack([tensor_of_units(site, parts[n], kept[n]).any(1) for n in writers])
        units = stays.any(0).nonzero().flatten()
        found[site.name] = channels_of(site, units if len(units) else torch.zeros(1, dtype=torch.int64))
    return found


def _writers(subject: Subject, site: HiddenSite) -> list[str]:
    """The weights whose rows write a site's channels."""
    state = subject.model.state_dict()
    return [part.name for part in site.slices if not part.output and part.dim == 0 and state[part.name].dim() > 1]


def _wide(rows: Tensor, weight: Tensor) -> Tensor:
    """`[filters]` bool as one of the weight's shape."""
    return rows.to(weight.device).view(-1, *[1] * (weight.dim() - 1)).expand(weight.shape).clone()
