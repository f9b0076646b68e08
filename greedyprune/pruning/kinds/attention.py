"""Attention: heads in the basis that carries most, or channels, or whole heads."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from greedyprune.errors import UserError
from greedyprune.pruning.kinds.base import Kind, Meter, Padding, SiteCut, State
from greedyprune.pruning.kinds.basis import BasisCut
from greedyprune.pruning.kinds.channels import (
    KeptCut,
    SiteMoments,
    check_whole,
    first_channels,
    sliced,
    switched_off,
)
from greedyprune.pruning.kinds.reading import LinearReading
from greedyprune.pruning.moments import HeadMoments
from greedyprune.pruning.sensitivity import token_weights
from greedyprune.sites import AttentionSite, Change

if TYPE_CHECKING:
    from greedyprune.pruning.scorers.given import Given


class AttentionMeter(Meter):
    """Second moments of weighted values, queries and keys, weighted by sensitivity.

    Args:
        site: the site.
        model: the dense model.
    """

    def __init__(self, site: AttentionSite, model: nn.Module) -> None:
        self.site = site
        self.reading = LinearReading(site.reader, model)
        self.core = model.get_submodule(site.core) if site.products else None
        device = self.reading.weight.device

        def heads() -> tuple[HeadMoments, ...]:
            return tuple(HeadMoments(site.groups, site.group_width, device) for _ in range(site.products))

        self.moments = SiteMoments((self.reading.moments,), heads(), heads())
        self._given: list[tuple[Tensor | None, ...]] = []

    def watch(self, model: nn.Module, stack: ExitStack) -> None:
        self.reading.watch(stack)

        def attend(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._given.append(tuple(None if arg is None else arg.detach() for arg in args))

        if self.core is not None:
            stack.callback(self.core.register_forward_pre_hook(attend).remove)

    def forget(self) -> None:
        self.reading.forget()
        self._given.clear()

    @property
    def probes(self) -> Sequence[Tensor]:
        return self.reading.probes

    def count(self, gradients: Sequence[Sequence[Tensor]], padding: Padding) -> None:
        valid = self.reading.count([each[0] for each in gradients], padding)
        for given in self._given:  # an attention that looks at every level apart calls its core once for each
            self._count_products(given, [each[0] for each in gradients], valid)
        self._given.clear()

    def _count_products(self, given: tuple[Tensor | None, ...], gradients: Sequence[Tensor], valid: Tensor) -> None:
        """Queries and keys, weighted by how much the answer depends on the logits in their rows and columns."""
        q, k, v, shown = given
        assert q is not None
        assert k is not None
        assert v is not None
        logits = q @ k.mT / q.shape[-1] ** 0.5  # [B, heads, N, M]
        if shown is not None:
            logits = logits.masked_fill(~shown, -torch.inf)
        chance = logits.softmax(-1)
        by_query, by_key = torch.zeros_like(q[..., 0]), torch.zeros_like(k[..., 0])  # [B, heads, N], [B, heads, M]
        for gradient in gradients:
            at_heads = (gradient @ self.reading.weight).unflatten(-1, (self.site.groups, -1)).transpose(1, 2)
            at_chance = at_heads @ v.mT  # [B, heads, N, M]
            power = (chance * (at_chance - (at_chance * chance).sum(-1, keepdim=True))).square()
            by_query += power.sum(-1)
            by_key += power.sum(-2)
        seen = torch.ones_like(k[:, 0, :, 0]) if shown is None else shown[:, 0, 0].to(k.dtype)  # [B, M]
        query_weights = token_weights(by_query, valid[:, None])
        key_weights = token_weights(by_key, seen[:, None].double())
        width = self.site.group_width
        for product, (queries, keys) in enumerate(zip(self.moments.queries, self.moments.keys, strict=True)):
            part = slice(product * width, (product + 1) * width)
            queries.add(q[..., part], query_weights, centred=False)
            keys.add(k[..., part], key_weights, centred=True)


class AttentionKind(Kind[AttentionSite]):
    """Attention heads lose channels, each as many; or, where heads leave whole, heads."""

    def meter(self, site: AttentionSite, model: nn.Module) -> AttentionMeter:
        return AttentionMeter(site, model)

    def cut(self, site: AttentionSite, given: "Given", scorer: str, refit: bool) -> SiteCut:
        if scorer == "basis" and site.unit == 1:
            return BasisCut(site, given.state, given.moments[site.name], refit)
        # A head that leaves whole needs no basis.
        order = given.order(site, "select" if scorer == "basis" else scorer)
        return KeptCut(site, given.state, order, given.moments[site.name] if refit else None)

    def kept_change(self, site: AttentionSite, state: State, kept: Sequence[int]) -> Change:
        return sliced(site, state, kept)

    def masked_change(self, site: AttentionSite, state: State, kept: Sequence[int]) -> Change:
        return switched_off(site, state, kept)

    def first(self, site: AttentionSite, width: int) -> tuple[int, ...]:
        return first_channels(site, width)

    def check_kept(self, site: AttentionSite, kept: Iterable[int]) -> tuple[int, ...]:
        channels = check_whole(site, kept, "head")
        counts = group_counts(site, channels)
        if len(set(counts)) != 1:
            raise UserError(f"site {site.name}: heads keep different numbers of channels: {counts}")
        return channels


def group_counts(site: AttentionSite, kept: Iterable[int]) -> list[int]:
    """Kept channels of each group."""
    counts = [0] * site.groups
    for channel in kept:
        counts[channel // site.group_width] += 1
    return counts
