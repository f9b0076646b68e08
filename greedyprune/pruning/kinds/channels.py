"""What attention and hidden sites have in common: channels that are sliced out of tensors and read by linear maps."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import sqrt

import torch
from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.pruning.kinds.base import State, check_numbers
from greedyprune.pruning.kinds.readers import Constants, ReaderMoments, Resolved, folded, resolved
from greedyprune.pruning.moments import HeadMoments
from greedyprune.sites import Change, HiddenSite, Site, Trimmed
from greedyprune.sites.site import AttentionSite, Setting

ChannelSite = AttentionSite | HiddenSite


@dataclass(frozen=True)
class SiteMoments:
    """Moments of one site of the dense model.

    Attributes:
        readers: of everything that reads its channels.
        queries: of the queries of each product that is summed before the softmax; empty without such products.
        keys: the same of the keys, about each image's mean.
    """

    readers: tuple[ReaderMoments, ...]
    queries: tuple[HeadMoments, ...] = ()
    keys: tuple[HeadMoments, ...] = ()


@dataclass(frozen=True)
class KeptCut:
    """The first channels of an order are kept.

    Attributes:
        site: the site, dense.
        state: the dense model's tensors.
        order: `[groups, units]` units of each group (channels, where they leave one by one), best first.
        moments: refit what reads the channels to these; None: the dense weights stay,
        constants: and the readers take what a pruned channel is when nothing comes from its filter; None: it is 0.
    """

    site: ChannelSite
    state: State
    order: Tensor
    moments: SiteMoments | None = None
    constants: Constants | None = None
    _solved: dict[int, tuple[Resolved, ...]] = field(default_factory=dict, repr=False, compare=False)

    def kept(self, width: int) -> tuple[int, ...]:
        """The channels that a width keeps, ascending."""
        return channels_of(self.site, self.order[:, : width // self.site.grain])

    def change(self, width: int, state: State) -> Change:
        result = sliced(self.site, state, self.kept(width))
        if width >= self.site.full:
            return result
        now = Trimmed.of(state, result)
        if width not in self._solved:
            self._solved[width] = tuple(self._readers(width))
        for solved in self._solved[width]:
            now.update(solved.tensors(now))
        changed = {name: tensor for name, tensor in now.items() if tensor is not state.get(name)}
        return Change(changed, result.settings, left=result.left)

    def _readers(self, width: int) -> Iterator[Resolved]:
        kept, site = self.kept(width), self.site
        if self.moments is not None:
            for moments in self.moments.readers:
                index = torch.tensor(kept if moments.columns is None else site.units(kept))
                own = moments.own(self.state[moments.reader.weight])
                start = own.unflatten(1, (-1, 1 if moments.columns is None else moments.columns.shape[1]))
                start = start.index_select(1, index.to(own.device)).flatten(1, 2)
                yield resolved(self.state, moments, index, start)
        elif self.constants is not None and isinstance(site, HiddenSite):
            for reader in site.readers:
                weight, constants = self.state[reader.weight], self.constants[reader.module]
                pruned = site.columns(reader, weight.shape[1])[site.pruned(kept)].flatten()
                yield folded(reader, weight, len(constants) // weight.shape[1], pruned, constants)


def refitted(state: State, moments: ReaderMoments, kept: Tensor, start: Tensor) -> dict[str, Tensor]:
    """The tensors of a reader that was solved again, nothing else being cut; see `resolved`."""
    solved = resolved(state, moments, kept, start)
    weight = moments.reader.weight
    return solved.tensors(Trimmed({**state, weight: start.to(state[weight].dtype)}, {(weight, 1): solved.columns}))


def sliced(site: ChannelSite, state: State, kept: Sequence[int]) -> Change:
    """The site without its pruned channels, and nothing else changed.

    An attention whose softmax scale is that of its width gets the dense scale into the weights that make queries: they
    are multiplied by sqrt(slim width / dense width). A head that stays whole keeps its scale.
    """
    change = Trimmed.of(state).cut(site, site.pruned(kept))
    if isinstance(site, AttentionSite) and _folds(site) and len(kept) < site.full:
        for part in site.slices:
            if "query" in part.roles:
                blocks = change.tensors[part.name].movedim(part.dim, 0).unflatten(0, (part.blocks, -1))
                blocks[part.roles.index("query")] *= sqrt(len(kept) / site.full)
    return Change({**change.tensors, **site.also}, change.settings, left=change.left)


def _folds(site: AttentionSite) -> bool:
    return site.natural_scale and site.unit == 1


def settings_of(settings: Sequence[Setting], width: int) -> dict[tuple[str, str], int]:
    """The attributes that remember a width."""
    return {(each.module, each.attribute): width // each.per for each in settings}


def switched_off(site: Site, state: State, kept: Sequence[int]) -> Change:
    """The site with zeros in everything that writes a pruned channel.

    Its q, k and v are 0, or the activation of 0, which is 0, or what a batch norm that scales by 0 and adds 0 makes of
    it. Unlike a kept set of a slim site, this one may keep any number of channels in each head, also none; where heads
    leave whole, a head of which a channel is kept stays on.
    """
    tensors: dict[str, Tensor] = {}
    for part in site.slices:
        if not part.output:
            tensor = tensors.get(part.name, state[part.name]).detach()
            off = site.positions(part, tensor.shape[part.dim])[site.pruned(kept)].flatten()
            tensors[part.name] = tensor.index_fill(part.dim, off.to(tensor.device), 0)
    return Change({**tensors, **site.also})


def channels_of(site: ChannelSite, units: Tensor) -> tuple[int, ...]:
    """The channels of units `[groups, n]`, ascending."""
    unit = site.unit
    return tuple(sorted(c for first in units.flatten().tolist() for c in range(first * unit, (first + 1) * unit)))


def by_group(site: ChannelSite, order: Tensor) -> Tensor:
    """An order `[width]` of all channels as one of each group's units, `[groups, units]`: each by its best channel."""
    units = list(dict.fromkeys((order // site.unit).tolist()))
    own = site.group_width // site.unit
    return torch.tensor([[unit for unit in units if unit // own == group] for group in range(site.groups)])


def first_channels(site: ChannelSite, width: int) -> tuple[int, ...]:
    """The first channels of every group."""
    each = width // site.groups
    return tuple(group * site.group_width + channel for group in range(site.groups) for channel in range(each))


def check_whole(site: ChannelSite, kept: Iterable[int], unit: str) -> tuple[int, ...]:
    """A kept set, ascending, of whole units.

    Raises:
        UserError: it is none of the site's, or takes a unit apart.
    """
    channels = check_numbers(site, kept)
    whole = {number * site.unit + offset for number in site.units(channels) for offset in range(site.unit)}
    if torn := whole.difference(channels):
        raise UserError(
            f"site {site.name} keeps a part of {unit} {min(torn) // site.unit}; its {site.unit} channels stay together"
        )
    return channels
