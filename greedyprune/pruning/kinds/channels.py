"""What attention and hidden sites have in common: channels that are sliced out of tensors and read by linear maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from greedyprune.pruning.kinds.base import State
from greedyprune.pruning.moments import HeadMoments, Moments
from greedyprune.pruning.refit import refit
from greedyprune.pruning.sensitivity import channel_metric
from greedyprune.sites import Change, HiddenSite, Reader, Site, Slice
from greedyprune.sites.site import AttentionSite, Setting

ChannelSite = AttentionSite | HiddenSite


@dataclass(frozen=True)
class ReaderMoments:
    """Moments of what one reader of a site gets and gives. Tokens count by how much the answer depends on them.

    Attributes:
        reader: the reader.
        layer: its module in the dense model.
        norm: the batch norm after it, if there is one.
        rows: of its input, a channel's taps side by side.
        power: `[dim, dim]` float64, the sum of g g^T: how much the answer depends on its output channels; None: that
            was not measured.
    """

    reader: Reader
    layer: nn.Module
    norm: nn.Module | None
    rows: Moments
    power: Tensor | None

    def metric(self, weight: Tensor) -> Tensor:
        """The root of the metric of its output channels, as a map of `weight` `[dim, n]`: an error e counts as |R e|^2.

        What was not measured counts as the batch norm after it scales it.
        """
        if self.power is not None:
            return channel_metric(self.power) @ weight
        if self.norm is None:
            return weight
        norm = self.norm.state_dict()
        eps: float = self.norm.eps  # type: ignore[assignment]
        return weight * (norm["weight"].double() / (norm["running_var"].double() + eps).sqrt())[:, None]


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
        moments: refit what reads the channels to these; None: the dense weights stay.
    """

    site: ChannelSite
    state: State
    order: Tensor
    moments: SiteMoments | None = None

    def kept(self, width: int) -> tuple[int, ...]:
        """The channels that a width keeps, ascending."""
        return channels_of(self.site, self.order[:, : width // self.site.grain])

    def change(self, width: int, state: State) -> Change:
        site, kept = self.site, self.kept(width)
        result = sliced(site, {**state, **{p.name: self.state[p.name] for p in site.slices if p.output}}, kept)
        if self.moments is None or width >= site.full:
            return result
        index = torch.tensor(kept)
        tensors = dict(result.tensors)
        for moments in self.moments.readers:
            start = tensors[moments.reader.weight]
            tensors |= refitted(self.state, moments, index, start)
        return Change(tensors, result.settings)


def refitted(state: State, moments: ReaderMoments, kept: Tensor, start: Tensor) -> dict[str, Tensor]:
    """A reader, solved again so that from what is kept it gives what it gave.

    What its mean loses goes into its bias, or without one into the running mean of the batch norm after it; where
    there is neither, it is solved about zero.

    Args:
        state: the dense model's tensors.
        moments: what it reads.
        kept: `[r, width]` rows of a basis, or `[r]` channels.
        start: what would read them otherwise, of the reader's shape with r channels.
    """
    reader, rows = moments.reader, moments.rows
    weight = state[reader.weight]
    flat, taps = weight.flatten(1), weight[0, 0].numel()
    bias, mean = state.get(f"{reader.module}.bias"), state.get(f"{reader.norm}.running_mean") if reader.norm else None
    covariance, centre = rows.covariance, rows.mean
    if bias is None and mean is None:
        covariance, centre = covariance + torch.outer(centre, centre), torch.zeros_like(centre)
    if kept.dim() == 1:
        kept = (torch.arange(taps) + kept[:, None] * taps).flatten()  # a channel's taps lie side by side
    elif taps > 1:
        raise ValueError("a basis of channels is for linear layers")
    zero = torch.zeros(len(flat), dtype=torch.float64, device=flat.device)
    solved, shift = refit(
        covariance, centre, kept.to(centre.device), flat, zero if bias is None else bias, start.flatten(1)
    )
    result = {reader.weight: solved.to(weight.dtype).view(len(weight), -1, *weight.shape[2:])}
    if bias is not None:
        result[f"{reader.module}.bias"] = shift.to(bias.dtype)
    elif mean is not None:
        result[f"{reader.norm}.running_mean"] = mean - shift.to(mean.dtype)
    return result


def sliced(site: ChannelSite, state: State, kept: Sequence[int]) -> Change:
    """The site without its pruned channels, and nothing else changed.

    An attention whose softmax scale is that of its width gets the dense scale into the weights that make queries: they
    are multiplied by sqrt(slim width / dense width). A head that stays whole keeps its scale.
    """
    index = torch.as_tensor(site.units(kept), device=state[site.slices[0].name].device)
    scale = sqrt(len(kept) / site.full) if isinstance(site, AttentionSite) and _folds(site) else 1.0
    tensors = {part.name: _select(site, part, state[part.name], index, scale) for part in site.slices}
    return Change({**tensors, **site.also}, settings_of(site.settings, len(kept)))


def _folds(site: AttentionSite) -> bool:
    return site.natural_scale and site.unit == 1


def _select(site: Site, part: Slice, tensor: Tensor, index: Tensor, scale: float) -> Tensor:
    chosen = site.by_unit(part, tensor.detach()).index_select(1, index)  # [blocks, units kept, rows of a unit, ...]
    if "query" in part.roles and scale != 1.0:
        chosen[part.roles.index("query")] *= scale
    return chosen.flatten(0, 2).movedim(0, part.dim).contiguous()


def settings_of(settings: Sequence[Setting], width: int) -> dict[tuple[str, str], int]:
    """The attributes that remember a width."""
    return {(each.module, each.attribute): width // each.per for each in settings}


def switched_off(site: Site, state: State, kept: Sequence[int]) -> Change:
    """The site with zeros in everything that writes a pruned channel.

    Its q, k and v are 0, or the activation of 0, which is 0, or what a batch norm that scales by 0 and adds 0 makes of
    it. Unlike a kept set of a slim site, this one may keep any number of channels in each head, also none; where heads
    leave whole, a head of which a channel is kept stays on.
    """
    tensors = {}
    for part in site.slices:
        if not part.output:
            tensors[part.name] = state[part.name].detach().clone()
            site.by_unit(part, tensors[part.name])[:, site.pruned(kept)] = 0
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
