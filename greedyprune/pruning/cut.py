"""A site cut to a width: the tensors of its slim form."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from greedyprune.models.detector import Detector
from greedyprune.pruning.bases import query_key_basis, shared_key_basis, value_basis
from greedyprune.pruning.calibrate import SiteMoments
from greedyprune.pruning.convolution import ConvolutionCut
from greedyprune.pruning.refit import refit
from greedyprune.pruning.sensitivity import channel_metric
from greedyprune.pruning.sites import Site
from greedyprune.pruning.transplant import rebuilt, slim_tensors

State = Mapping[str, Tensor]


class SiteCut(Protocol):
    """Everything that is known about cutting one site of a dense model."""

    @property
    def site(self) -> Site: ...

    def tensors(self, width: int) -> dict[str, Tensor]:
        """The site's slim tensors by name, for any width that the site can have."""
        ...


@dataclass(frozen=True)
class KeptCut:
    """The first channels of an order are kept.

    Attributes:
        site: the site, dense.
        state: the dense model's tensors.
        order: `[groups, units]` units of each group (channels, where they leave one by one), best first.
        moments: refit what reads the channels to these; None: the dense weights stay.
    """

    site: Site
    state: State
    order: Tensor
    moments: SiteMoments | None = None

    def kept(self, width: int) -> tuple[int, ...]:
        """The channels that a width keeps, ascending."""
        unit = self.site.unit
        units = self.order[:, : width // self.site.grain].flatten().tolist()
        return tuple(sorted(channel for first in units for channel in range(first * unit, (first + 1) * unit)))

    def tensors(self, width: int) -> dict[str, Tensor]:
        kept = self.kept(width)
        result = slim_tensors(self.site, self.state, kept)
        if self.moments is not None and width < self.site.width:
            result |= refitted(self.site, self.state, self.moments, torch.tensor(kept), result[self.site.reads])
        return result


class BasisCut:
    """Attention whose heads are rewritten in the basis that carries most, and cut there.

    Args:
        site: the site, dense.
        state: the dense model's tensors.
        moments: what the site carries.
        refit: solve the output projection over all heads together again.
    """

    def __init__(self, site: Site, state: State, moments: SiteMoments, refit: bool = True) -> None:
        self.site, self.state, self.moments, self.refit = site, state, moments, refit
        heads, width = site.groups, site.group_width
        covariance = moments.rows.covariance
        own = torch.stack([covariance[h : h + width, h : h + width] for h in range(0, heads * width, width)])
        columns = state[site.reads].unflatten(1, (heads, width))  # [dim, heads, d]
        self.values = value_basis(own, columns, channel_metric(moments.power))
        self.shared = any(len(part.spaces) > 1 for part in site.slices)
        self.products = []
        if not self.shared:
            pairs = zip(moments.queries, moments.keys, strict=True)
            self.products = [query_key_basis(query.moment, key.moment) for query, key in pairs]

    def tensors(self, width: int) -> dict[str, Tensor]:
        if width >= self.site.width:
            return {part.name: self.state[part.name] for part in self.site.slices}
        return self.rewritten(width)

    def rewritten(self, width: int) -> dict[str, Tensor]:
        """The tensors in the new basis, at any width up to the full one, which is the dense site to rounding."""
        site, each = self.site, width // self.site.groups
        maps = self._maps(each)
        # A slim head scales its logits by its own width; the dense head's scale goes into the queries.
        scale = math.sqrt(each / site.group_width)
        result = {}
        for part in site.slices:
            if part.output:
                continue
            blocks = self.state[part.name].double().unflatten(0, (part.blocks, site.groups, -1))
            slim = []
            for role, block in zip(part.roles, blocks, strict=True):
                space = part.spaces[0] if role in ("query", "key") else 0
                mapped = torch.einsum("hwd,hd...->hw...", maps[role, space], block)
                slim.append(mapped * scale if role == "query" else mapped)
            result[part.name] = torch.stack(slim).flatten(0, 2).to(self.state[part.name].dtype)  # [blocks * width, ...]
        columns = self.values.output[..., :each].flatten(1)
        if self.refit:
            result |= refitted(site, self.state, self.moments, torch.block_diag(*maps["value", 0]), columns)
        else:
            result[site.reads] = columns.to(self.state[site.reads].dtype)
        return self._balanced(result)

    def _balanced(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same function with every channel scaled so that what it is multiplied with is as large as itself.

        A basis that makes channels of variance 1 has huge values and a tiny output where a head carries next to
        nothing: beyond half precision, and too stiff to learn.
        """
        squares: dict[tuple[str, int], Tensor] = {("output", 0): tensors[self.site.reads].double().square().sum(0)}
        for key, block in self._blocks(tensors):
            if block.dim() == 2:
                squares[key] = squares.get(key, 0) + block.double().square().sum(1)
        scales = {("value", 0): _scale(squares["output", 0], squares["value", 0])}
        tensors[self.site.reads] = tensors[self.site.reads] / scales["value", 0].to(tensors[self.site.reads])
        for space in () if self.shared else range(len(self.products)):  # keys of two products have one scale for both
            scales["query", space] = _scale(squares["key", space], squares["query", space])
            scales["key", space] = 1 / scales["query", space]
        for key, block in self._blocks(tensors):
            if (scale := scales.get(key)) is not None:
                block *= scale.to(block).view(-1, *[1] * (block.dim() - 1))
        return tensors

    def _blocks(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[tuple[str, int], Tensor]]:
        """Every part of the slim tensors that writes channels, a view, by their role and product."""
        for part in self.site.slices:
            if not part.output:
                for role, block in zip(part.roles, tensors[part.name].unflatten(0, (part.blocks, -1)), strict=True):
                    yield (role, part.spaces[0] if role != "value" else 0), block

    def _maps(self, each: int) -> dict[tuple[str, int], Tensor]:
        """The map `[heads, each, d]` of every role and product."""
        maps = {("value", 0): self.values.value[:, :each]}
        if self.shared:
            queries = tuple(moments.moment for moments in self.moments.queries)
            keys = tuple(moments.moment for moments in self.moments.keys)
            assert len(queries) == 2
            assert len(keys) == 2
            first, second, key = shared_key_basis(queries, keys, each)
            # The content keys hold the shared position keys: both are made by the same map.
            return maps | {("query", 0): first, ("query", 1): second, ("key", 0): key, ("key", 1): key}
        for space, product in enumerate(self.products):
            maps |= {("query", space): product.query[:, :each], ("key", space): product.key[:, :each]}
        return maps


def _scale(other: Tensor, own: Tensor) -> Tensor:
    """What a channel is multiplied with to be as large as the other side, which is divided by it; squares are given."""
    alive = (other > 0) & (own > 0)
    return torch.where(alive, (other / own.clamp(min=1e-300)).clamp(min=1e-300) ** 0.25, 1.0)


def refitted(site: Site, state: State, moments: SiteMoments, kept: Tensor, start: Tensor) -> dict[str, Tensor]:
    """What reads the site's channels, solved again.

    Args:
        site: the site, dense.
        state: the dense model's tensors.
        moments: what the site carries.
        kept: `[r, width]` rows of a basis, or `[r]` channels.
        start: `[dim, r]` what would read them otherwise.
    """
    bias = site.reads.removesuffix("weight") + "bias"
    rows = moments.rows
    kept = kept.to(rows.mean.device)
    solved, shift = refit(rows.covariance, rows.mean, kept, state[site.reads], state[bias], start)
    return {site.reads: solved.to(state[site.reads].dtype), bias: shift.to(state[bias].dtype)}


def cut_tensors(cuts: Mapping[str, SiteCut], widths: Mapping[str, int]) -> dict[str, Tensor]:
    """The tensors of several sites at their widths.

    Args:
        cuts: how each site is cut.
        widths: site name -> width, front to back.
    """
    result: dict[str, Tensor] = {}
    for name, width in widths.items():
        cut = cuts[name]
        # What reads a bottleneck's first site writes its second.
        result |= cut.tensors(width, result) if isinstance(cut, ConvolutionCut) else cut.tensors(width)
    return result


def cut_model(model: Detector, cuts: Mapping[str, SiteCut], widths: Mapping[str, int]) -> Detector:
    """A slim model.

    Args:
        model: the dense model; it is not changed.
        cuts: how each site is cut.
        widths: site name -> width; a site that is not named stays dense.

    Returns:
        A new model on the same device, in the same mode.
    """
    return rebuilt(model, model.cfgs.replace(dict(widths)), {**model.state_dict(), **cut_tensors(cuts, widths)})
