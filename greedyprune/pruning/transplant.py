"""From kept sets to a slim model, without changing what it computes (DESIGN law 1)."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from greedyprune.errors import UserError
from greedyprune.families.base import Family
from greedyprune.pruning.cutter import combined
from greedyprune.pruning.kinds import kind_of
from greedyprune.sites import Change, CountSite, Site, Widths

KeptSets = dict[str, tuple[int, ...]]


def transplant(family: Family, model: nn.Module, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A slim model with the surviving weights.

    Args:
        family: of the model.
        model: the dense model, or one that is already slim; it is not changed.
        kept: site name -> channels or items of that site in `model`; a site that is not named stays as it is.

    Returns:
        A new model on the same device, in the same mode, that answers as the masked one does.

    Raises:
        UserError: kept sets that do not fit the model.
    """
    return family.slim(model, kept_change(tuple(family.sites(model)), model.state_dict(), kept))


def masked(family: Family, model: nn.Module, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy of the model in which what is pruned is switched off and nothing is smaller.

    Unlike a kept set for `transplant`, this one may keep any number of channels in each head, also none.
    """
    change = Change()
    state = model.state_dict()
    for site in family.sites(model):
        if site.name in kept:
            own = kind_of(site).masked_change(site, {**state, **change.tensors}, kept[site.name])
            change = change | own
    return family.slim(model, change)


def kept_change(sites: Sequence[Site], state: Mapping[str, Tensor], kept: Mapping[str, Sequence[int]]) -> Change:
    """The change that leaves of sites what is kept.

    Raises:
        UserError: a name that is no site's, a kept set that is none of the site's, or nothing of a group is kept.
    """
    known = {site.name: site for site in sites}
    if unknown := sorted(kept.keys() - known.keys()):
        raise UserError(f"{unknown[0]} is no site of the model; its sites are {', '.join(known)}")
    checked = {name: kind_of(known[name]).check_kept(known[name], channels) for name, channels in kept.items()}
    groups = {site.one_of for site in sites if isinstance(site, CountSite) and site.one_of}
    for group in sorted(groups):
        members = [site.name for site in sites if isinstance(site, CountSite) and site.one_of == group]
        if not any(checked.get(name, (0,)) for name in members):
            raise UserError(f"none of the {group} is kept; at least one of {', '.join(members)} stays")

    def change(site: Site, width: int, state: Mapping[str, Tensor]) -> Change:
        return kind_of(site).kept_change(site, state, checked[site.name])

    return combined(sites, {name: len(channels) for name, channels in checked.items()}, state, change)


def shape_change(sites: Sequence[Site], state: Mapping[str, Tensor], widths: Widths) -> Change:
    """A change to widths, whichever channels it keeps: enough for counting costs."""

    def change(site: Site, width: int, state: Mapping[str, Tensor]) -> Change:
        kind = kind_of(site)
        return kind.kept_change(site, state, kind.first(site, width))

    return combined(sites, widths, state, change)
