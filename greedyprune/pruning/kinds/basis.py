"""Attention whose heads are rewritten in the basis that carries most."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from greedyprune.pruning.bases import query_key_basis, shared_key_basis, value_basis
from greedyprune.pruning.kinds.base import State
from greedyprune.pruning.kinds.channels import SiteMoments, refitted, settings_of
from greedyprune.pruning.sensitivity import channel_metric
from greedyprune.sites import AttentionSite, Change


class BasisCut:
    """Attention whose heads are rewritten in the basis that carries most, and cut there.

    Args:
        site: the site, dense.
        state: the dense model's tensors.
        moments: what the site carries.
        refit: solve the output projection over all heads together again.
    """

    def __init__(self, site: AttentionSite, state: State, moments: SiteMoments, refit: bool = True) -> None:
        self.site, self.state, self.moments, self.refit = site, state, moments, refit
        heads, width, (reading,) = site.groups, site.group_width, moments.readers
        covariance = reading.rows.covariance
        own = torch.stack([covariance[h : h + width, h : h + width] for h in range(0, heads * width, width)])
        columns = state[site.reader.weight].unflatten(1, (heads, width))  # [dim, heads, d]
        assert reading.power is not None
        self.values = value_basis(own, columns, channel_metric(reading.power))
        self.shared = any(len(part.spaces) > 1 for part in site.slices)
        self.products = []
        if not self.shared:
            pairs = zip(moments.queries, moments.keys, strict=True)
            self.products = [query_key_basis(query.moment, key.moment) for query, key in pairs]

    def change(self, width: int, state: State) -> Change:
        dense = width >= self.site.full
        tensors = {p.name: self.state[p.name] for p in self.site.slices} if dense else self.rewritten(width)
        return Change(tensors if dense else {**tensors, **self.site.also}, settings_of(self.site.settings, width))

    def rewritten(self, width: int) -> dict[str, Tensor]:
        """The tensors in the new basis, at any width up to the full one, which is the dense site to rounding."""
        site, each = self.site, width // self.site.groups
        maps = self._maps(each)
        # A slim head that scales its logits by its own width has the dense head's scale in its queries.
        scale = math.sqrt(each / site.group_width) if site.natural_scale else 1.0
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
            result |= refitted(self.state, self.moments.readers[0], torch.block_diag(*maps["value", 0]), columns)
        else:
            result[site.reader.weight] = columns.to(self.state[site.reader.weight].dtype)
        return self._balanced(result)

    def _balanced(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same function with every channel scaled so that what it is multiplied with is as large as itself.

        A basis that makes channels of variance 1 has huge values and a tiny output where a head carries next to
        nothing: beyond half precision, and too stiff to learn.
        """
        reader = self.site.reader.weight
        squares: dict[tuple[str, int], Tensor] = {("output", 0): tensors[reader].double().square().sum(0)}
        for key, block in self._blocks(tensors):
            if block.dim() == 2:
                squares[key] = squares.get(key, 0) + block.double().square().sum(1)
        scales = {("value", 0): _scale(squares["output", 0], squares["value", 0])}
        tensors[reader] = tensors[reader] / scales["value", 0].to(tensors[reader])
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
