"""What reads a site's kept channels: its statistics, and its weights solved again."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from greedyprune.pruning.kinds.base import State
from greedyprune.pruning.moments import Moments
from greedyprune.pruning.refit import refit
from greedyprune.pruning.sensitivity import channel_metric
from greedyprune.sites import Reader, Trimmed

Constants = Mapping[str, Tensor]  # by the reader's module; see `folded`


@dataclass(frozen=True)
class ReaderMoments:
    """Moments of what one reader of a site gets of it and gives. Tokens count by how much the answer depends on them.

    Attributes:
        reader: the reader.
        layer: its module in the dense model.
        norm: the batch norm after it, if there is one.
        rows: of its input as far as the site has a part in it, unit after unit, a channel's taps side by side.
        power: `[dim, dim]` float64, the sum of g g^T: how much the answer depends on its output channels; None: that
            was not measured.
        columns: `[units, n]` int64, where each unit of the site is in the columns of its weight; None: the columns are
            the site's channels.
    """

    reader: Reader
    layer: nn.Module
    norm: nn.Module | None
    rows: Moments
    power: Tensor | None
    columns: Tensor | None = None

    @property
    def groups(self) -> int:
        """Groups of a convolution; 1 of anything else."""
        return self.layer.groups if isinstance(self.layer, nn.Conv2d) else 1

    def own(self, weight: Tensor) -> Tensor:
        """`[dim, columns, taps]` what it reads the site with, of its weight."""
        own = weight if self.columns is None else weight.index_select(1, self.columns.flatten().to(weight.device))
        return own.reshape(*own.shape[:2], -1)

    def matrix(self, weight: Tensor) -> Tensor:
        """`[dim, n]` float64, what multiplies `rows`: 0 where a group of a convolution does not read a channel."""
        own, groups = self.own(weight).double(), self.groups
        if groups == 1:
            return own.flatten(1)
        spread = own.new_zeros(len(own), own.shape[1], groups, own.shape[2])
        for group, rows in enumerate(torch.arange(len(own)).chunk(groups)):
            spread[rows, :, group] = own[rows]
        return spread.flatten(1)

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
class Resolved:
    """What a reader of kept channels gets, in the dense model's rows.

    Attributes:
        reader: the reader.
        weight: `[dim, columns, *taps]` of the kept columns; None: they are as they were.
        columns: which ones these are, in the dense weight.
        shift: `[dim]` float64, what is added to what it gives.
    """

    reader: Reader
    weight: Tensor | None
    columns: Tensor
    shift: Tensor

    def tensors(self, state: Trimmed) -> dict[str, Tensor]:
        """The reader's tensors with it, in what cuts have left of them.

        What it gives more goes into its bias, or without one into the running mean of the batch norm after it.
        """
        found: dict[str, Tensor] = {}
        if self.weight is not None:
            now = state[self.reader.weight]
            rows, columns = (state.positions(self.reader.weight, dim) for dim in (0, 1))
            where = torch.searchsorted(columns, self.columns.cpu()).to(now.device)
            solved = self.weight.index_select(0, rows.to(now.device)).to(now.dtype)
            found[self.reader.weight] = now.detach().index_copy(1, where, solved)
        bias, mean = f"{self.reader.module}.bias", f"{self.reader.norm}.running_mean"
        for name, sign in ((bias, 1), (mean, -1)):
            if name in state:
                now = state[name].detach()
                shift = self.shift[state.positions(name, 0).to(self.shift.device)]
                found[name] = (now.double() + sign * shift.to(now.device)).to(now.dtype)
                break
        return found


def resolved(state: State, moments: ReaderMoments, kept: Tensor, start: Tensor) -> Resolved:
    """A reader, solved again so that from what is kept it gives what it gave; what else it reads stays.

    Where nothing can take what its mean loses, it is solved about zero. Every group of a convolution is solved alone.

    Args:
        state: the dense model's tensors.
        moments: what it reads.
        kept: `[r, width]` rows of a basis, or `[r]` units of the site.
        start: `[dim, r, *taps]`, what would read them otherwise.
    """
    reader, rows, groups = moments.reader, moments.rows, moments.groups
    weight = state[reader.weight]
    own = moments.own(weight)
    taps = own.shape[2]
    covariance, centre = rows.covariance, rows.mean
    if f"{reader.module}.bias" not in state and not reader.norm:
        covariance, centre = covariance + torch.outer(centre, centre), torch.zeros_like(centre)
    if kept.dim() == 1:
        columns = torch.arange(weight.shape[1])[:, None] if moments.columns is None else moments.columns
        each = columns.shape[1]
        positions = (torch.arange(each) + kept.cpu()[:, None] * each).flatten()  # of `own`
        index = (torch.arange(taps) + positions[:, None] * taps).flatten()  # a channel's taps lie side by side
        columns = columns.flatten()[positions]
    elif taps > 1 or groups > 1:
        raise ValueError("a basis of channels is for linear layers")
    else:
        index, columns = kept, torch.arange(len(kept))
    parts = []
    inputs = torch.arange(len(centre)).view(own.shape[1], groups, taps)
    for group in range(groups):
        block = slice(group * len(own) // groups, (group + 1) * len(own) // groups)
        part = inputs[:, group].flatten().to(centre.device)
        own_covariance, own_centre = (covariance, centre) if groups == 1 else (covariance[part][:, part], centre[part])
        zero = torch.zeros(block.stop - block.start, dtype=torch.float64, device=weight.device)
        flat, first = own[block].flatten(1), start[block].flatten(1)
        parts.append(refit(own_covariance, own_centre, index.to(centre.device), flat, zero, first))
    solved, shift = (torch.cat(each) for each in zip(*parts, strict=True))
    solved = solved.view(len(weight), -1, *weight.shape[2:]).to(weight.dtype)
    return Resolved(reader, solved, columns, shift)


def folded(reader: Reader, weight: Tensor, groups: int, pruned: Tensor, constants: Tensor) -> Resolved:
    """A reader that gives what it gave when the pruned channels were constants.

    Exact wherever all its taps lie in the image: at a border that is padded with zeros fewer of them see the constant.

    Args:
        reader: the reader.
        weight: `[dim, columns, *taps]` its dense weight.
        groups: of a convolution.
        pruned: the columns that are pruned.
        constants: `[columns * groups]` what each channel of its input is when nothing comes from its filter.
    """
    sums = weight.double().flatten(2).sum(2) if weight.dim() > 2 else weight.double()  # [dim, columns]
    block = len(sums) // groups
    shifts = [
        sums[group * block : (group + 1) * block, pruned] @ constants.double().view(groups, -1)[group, pruned]
        for group in range(groups)
    ]
    return Resolved(reader, None, pruned[:0], torch.cat(shifts))


def input_channels(columns: Tensor, width: int, groups: int) -> Tensor:
    """`[units, n * groups]` the channels of an input that columns of a weight read.

    Args:
        columns: `[units, n]`.
        width: how many columns the weight has.
        groups: of a convolution: each reads channels of its own with the same columns.
    """
    return (columns[..., None] + torch.arange(groups) * width).flatten(1)
