"""What the sites of a dense detector carry, over calibration images, and how much of it its answer depends on."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.models.detector import Detector
from greedyprune.pruning.moments import HeadMoments, Moments
from greedyprune.pruning.prefix import Prefix, finish
from greedyprune.pruning.sensitivity import answer_gradients, token_weights
from greedyprune.pruning.sites import Site


@dataclass(frozen=True)
class SiteMoments:
    """Moments of one site of the dense model. Tokens count by how much the answer depends on what they get.

    Attributes:
        rows: of what the site's last linear layer reads: weighted values of all heads, or the FFN's activations.
        power: `[dim, dim]` float64, the sum of g g^T: how much the answer depends on that layer's output channels.
        queries: of the queries of each product that is summed before the softmax; empty without such products.
        keys: the same of the keys, about each image's mean.
    """

    rows: Moments
    power: Tensor
    queries: tuple[HeadMoments, ...] = ()
    keys: tuple[HeadMoments, ...] = ()


@dataclass
class Seen:
    """What passed through a site in the forward pass at hand.

    Attributes:
        rows: `[B, N, width]` what the last linear layer read.
        probe: `[B, N, dim]` zeros that were added to what it gave; their gradient is that of the output.
        attention: q `[B, heads, N, e]`, k `[B, heads, M, e]`, v `[B, heads, M, d]` and the mask, if there are any.
    """

    rows: Tensor
    probe: Tensor
    attention: tuple[Tensor, Tensor, Tensor, Tensor | None] | None = None


def reader(model: nn.Module, site: Site) -> nn.Linear:
    """The linear layer that reads a site's channels."""
    layer = model.get_submodule(site.reads.removesuffix(".weight"))
    assert isinstance(layer, nn.Linear)
    return layer


def calibrate(
    model: Detector, sites: Sequence[Site], batches: Iterable[Prefix], seed: int = 0
) -> dict[str, SiteMoments]:
    """Run the dense detector over calibration images and keep the moments of its sites.

    Padded positions count nowhere. Memory is that of one batch and of the moments, whatever the number of images.

    Args:
        model: the dense detector in eval mode.
        sites: the sites to look at.
        batches: calibration images before the first encoder layer; not made in inference mode.
        seed: of the random projections that measure sensitivity.

    Returns:
        Moments by the site's name.
    """
    device = next(model.parameters()).device
    moments = {site.name: _empty(model, site, device) for site in sites}
    generator = torch.Generator().manual_seed(seed)
    with watched(model, sites) as seen:
        for prefix in batches:
            with torch.enable_grad():
                outputs = finish(model, prefix)
                gradients = answer_gradients(outputs, [seen[site.name].probe for site in sites], generator)
            with torch.no_grad():
                for site, *at_site in zip(sites, *gradients, strict=True):
                    _count(model, site, moments[site.name], seen[site.name], at_site, prefix.mask)
            seen.clear()
    return moments


@contextmanager
def watched(model: Detector, sites: Sequence[Site]) -> Iterator[dict[str, Seen]]:
    """Keep what passes through the sites in each forward pass, by the site's name."""
    seen: dict[str, Seen] = {}
    attention: dict[str, tuple[Any, ...]] = {}
    with ExitStack() as stack:
        for site in sites:
            last = reader(model, site)

            def read(module: nn.Module, args: tuple[Any, ...], output: Tensor, name: str = site.name) -> Tensor:
                probe = torch.zeros_like(output, requires_grad=True)
                seen[name] = Seen(args[0].detach(), probe, attention.pop(name, None))
                return output + probe

            def attend(module: nn.Module, args: tuple[Any, ...], name: str = site.name) -> None:
                attention[name] = tuple(None if arg is None else arg.detach() for arg in args)

            stack.callback(last.register_forward_hook(read).remove)
            if site.products:
                core = model.get_submodule(f"{site.reads.rpartition('.')[0].rpartition('.')[0]}.core")
                stack.callback(core.register_forward_pre_hook(attend).remove)
        yield seen


def _empty(model: Detector, site: Site, device: torch.device) -> SiteMoments:
    dim = reader(model, site).out_features

    def heads() -> tuple[HeadMoments, ...]:
        return tuple(HeadMoments(site.groups, site.group_width, device) for _ in range(site.products))

    power = torch.zeros(dim, dim, dtype=torch.float64, device=device)
    return SiteMoments(Moments(site.width, device), power, heads(), heads())


def _count(
    model: Detector, site: Site, moments: SiteMoments, seen: Seen, gradients: Sequence[Tensor], mask: Tensor | None
) -> None:
    power = torch.zeros(seen.rows.shape[:2], dtype=torch.float64, device=seen.rows.device)  # [B, N]
    for gradient in gradients:
        flat = gradient.flatten(0, 1).double()
        moments.power.addmm_(flat.T, flat)
        power += flat.square().sum(-1).view_as(power)
    valid = torch.ones_like(power) if mask is None or site.part == "decoder" else mask.flatten(1).double()
    weights = token_weights(power, valid)
    moments.rows.add(seen.rows.flatten(0, 1), weights.flatten())
    if seen.attention is not None:
        _count_products(model, site, moments, seen.attention, gradients, valid)


def _count_products(
    model: Detector,
    site: Site,
    moments: SiteMoments,
    attention: tuple[Tensor, Tensor, Tensor, Tensor | None],
    gradients: Sequence[Tensor],
    valid: Tensor,
) -> None:
    """Queries and keys, weighted by how much the answer depends on the logits in their rows and columns."""
    q, k, v, mask = attention
    logits = q @ k.mT / q.shape[-1] ** 0.5  # [B, heads, N, M]
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    chance = logits.softmax(-1)
    by_query, by_key = torch.zeros_like(q[..., 0]), torch.zeros_like(k[..., 0])  # [B, heads, N], [B, heads, M]
    weight = reader(model, site).weight
    for gradient in gradients:
        at_heads = (gradient @ weight).unflatten(-1, (site.groups, -1)).transpose(1, 2)  # [B, heads, N, d]
        at_chance = at_heads @ v.mT  # [B, heads, N, M]
        power = (chance * (at_chance - (at_chance * chance).sum(-1, keepdim=True))).square()
        by_query += power.sum(-1)
        by_key += power.sum(-2)
    shown = torch.ones_like(k[:, 0, :, 0]) if mask is None else mask[:, 0, 0].to(k.dtype)  # [B, M]
    query_weights = token_weights(by_query, valid[:, None])
    key_weights = token_weights(by_key, shown[:, None].double())
    width = site.group_width
    for product, (queries, keys) in enumerate(zip(moments.queries, moments.keys, strict=True)):
        part = slice(product * width, (product + 1) * width)
        queries.add(q[..., part], query_weights, centred=False)
        keys.add(k[..., part], key_weights, centred=True)
