"""The closed form for convolutions: which inner channels of a block the next convolution can do without.

A convolution is a linear map of its unfolded input, a row of channels x taps at every position. Its moments over
calibration images tell which channels, each with all of its taps together, explain most of what the convolution gives,
and what weights give it best from those alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.models.batch import ImageBatch, as_batch
from greedyprune.models.detector import Detector
from greedyprune.pruning.kept import full_kept
from greedyprune.pruning.moments import Moments
from greedyprune.pruning.refit import refit
from greedyprune.pruning.sites import Site
from greedyprune.pruning.transplant import slim_tensors

# Positions of an image that count at a site. Neighbours carry much the same, and the cost grows with their number.
POSITIONS = 512
# What every backbone's batch norm adds to the variance; no tensor tells it.
EPS = 1e-5


def reading_convolution(model: nn.Module, site: Site) -> nn.Conv2d:
    """The convolution that reads a backbone site's channels."""
    layer = model.get_submodule(site.reads.removesuffix(".weight"))
    assert isinstance(layer, nn.Conv2d)
    return layer


def _norm(site: Site) -> str:
    """The name of the batch norm after the convolution that reads a site's channels."""
    block, _, convolution = site.reads.removesuffix(".weight").rpartition(".")
    return f"{block}.{convolution.replace('conv', 'bn')}"


@torch.no_grad()
def calibrate_backbone(
    model: Detector, sites: Sequence[Site], batches: Iterable[Any], positions: int = POSITIONS
) -> dict[str, Moments]:
    """Run the dense backbone over calibration images and keep the moments of what its sites' readers unfold.

    Positions of padding count nowhere. Memory is that of the moments, (channels x taps)^2 float64 for each site, and of
    one batch's rows.

    Args:
        model: the dense detector in eval mode; only its backbone runs.
        sites: backbone sites.
        batches: whatever a detector accepts as its images, batch after batch.
        positions: most positions of an image that count at a site, the same of every image of one size.

    Returns:
        Moments of rows `[channels * taps]`, a channel's taps side by side, by the site's name.
    """
    device = next(model.parameters()).device
    moments, images = {}, [ImageBatch(torch.empty(0), None)]
    with ExitStack() as stack:
        for site in sites:
            reader = reading_convolution(model, site)
            moments[site.name] = Moments(reader.weight[0].numel(), device)
            hook = _hook(moments[site.name], images, positions)
            stack.callback(reader.register_forward_hook(hook).remove)
        for batch in batches:
            images[0] = as_batch(batch).to(device)
            model.feature_extractor.pyramid(images[0])
    return moments


def _hook(moments: Moments, images: list[ImageBatch], positions: int) -> Callable[..., None]:
    def hook(module: nn.Conv2d, args: tuple[Tensor], result: Tensor) -> None:
        size = result.shape[-2:]
        shown = torch.ones(len(result), *size, dtype=torch.bool, device=result.device)
        if images[0].mask is not None:
            shown = ~_halve(images[0].mask, size)
        rows = []
        for image, seen in zip(args[0], shown, strict=True):
            chosen = torch.nonzero(seen.flatten()).flatten()
            if len(chosen) > positions:
                # A regular grid would fall in step with the rows; these are spread evenly by chance, always the same.
                mixed = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(len(chosen)))
                chosen = chosen[mixed[:positions].to(chosen.device)]
            rows.append(unfold(module, image[None])[0][:, chosen].T)
        all_rows = torch.cat(rows)
        moments.add(all_rows, all_rows.new_ones(len(all_rows)))

    return hook


def unfold(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """`[B, C, h, w]` -> `[B, C * taps, positions]`: the columns that `weight.flatten(1)` multiplies."""
    kernel, stride, dilation = convolution.kernel_size, convolution.stride, convolution.dilation
    padding = tuple(int(side) for side in convolution.padding)
    return F.unfold(x, kernel, dilation, padding, stride)


def _halve(mask: Tensor, size: torch.Size) -> Tensor:
    """The mask `[B, H, W]` of a map of this size: every layer of stride 2 leaves each second row and column."""
    while mask.shape[-2:] != size:
        mask = mask[:, ::2, ::2]
    return mask


def group_selection(covariance: Tensor, weight: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """The order in which channels, each with all its taps, explain most of `weight @ x` when it is fitted again.

    Block orthogonal matching pursuit (Eldar et al. 2010) on moments alone: the channel that comes next takes most of
    the output's variance that is left, tr(B^T R^-1 B) with R the covariance of its taps and B theirs with the output,
    both without what the channels before it explain; that is taken out by a step of block Cholesky factorisation.
    n = channels * taps rows cost O(n^3 + n^2 dim) altogether.

    Args:
        covariance: `[n, n]` float64 of the unfolded x, a channel's taps side by side.
        weight: `[dim, n]` what reads them.
        taps: of one channel.

    Returns:
        `order` `[channels]` int64, best first, and `gain` `[channels]`, the output variance that each took when it was
        chosen. Channels that never vary, or that others express fully, come last, by number.
    """
    n, channels = len(covariance), len(covariance) // taps
    floor = covariance.diagonal().clamp(min=0).max() * 1e-10
    own = covariance.view(channels, taps, channels, taps).diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()
    ridge = floor * torch.eye(taps, dtype=own.dtype, device=own.device)
    reach = (covariance @ weight.double().mT).unflatten(0, (channels, taps))  # [channels, taps, dim]
    factor = torch.zeros(n, n, dtype=covariance.dtype, device=covariance.device)
    free = torch.ones(channels, dtype=torch.bool, device=covariance.device)
    order: list[int] = []
    gains: list[float] = []
    while True:
        free &= own.diagonal(dim1=1, dim2=2).amax(1) > floor
        left = torch.nonzero(free).flatten()
        if not len(left):
            break
        lower = torch.linalg.cholesky(own[left] + ridge)  # [left, taps, taps]
        power = torch.bmm(reach, reach.mT)[left]  # [left, taps, taps]
        gain = (torch.cholesky_inverse(lower) * power).sum((1, 2))
        first = int(gain.argmax())
        best = int(left[first])
        rows, done = slice(best * taps, best * taps + taps), slice(0, len(order) * taps)
        column = covariance[:, rows] - factor[:, done] @ factor[rows, done].mT  # [n, taps]
        column = torch.linalg.solve_triangular(lower[first].mT, column, upper=True, left=False)
        explained = torch.linalg.solve_triangular(lower[first], reach[best], upper=False)  # [taps, dim]
        factor[:, done.stop : done.stop + taps] = column
        blocks = column.unflatten(0, (channels, taps))  # [channels, taps, taps]
        reach -= (column @ explained).view_as(reach)
        own -= blocks @ blocks.mT
        order.append(best)
        gains.append(float(gain[first]))
        free[best] = False
    rest = sorted(set(range(channels)) - set(order))
    return torch.tensor(order + rest), torch.tensor(gains + [0.0] * len(rest), dtype=torch.float64)


class ConvolutionCut:
    """A backbone site cut to any width: its first channels by `group_selection`, and their reader fitted again.

    The reader has no bias: what its mean loses goes into the running mean of the batch norm after it. In a bottleneck
    the second site writes with the convolution that reads the first one; `cut_tensors` puts their cuts together.

    Args:
        site: the site, dense.
        state: the dense model's tensors.
        moments: of what the reader unfolds; see `calibrate_backbone`.
    """

    def __init__(self, site: Site, state: Mapping[str, Tensor], moments: Moments) -> None:
        self.site, self.state, self.moments = site, state, moments

    @property
    def taps(self) -> int:
        """Places of the reader's kernel."""
        return len(self.moments.mean) // self.site.width

    @cached_property
    def order(self) -> Tensor:
        """`[width]` channels, best first. Variance counts as the batch norm after the reader scales it."""
        norm = _norm(self.site)
        scale = self.state[f"{norm}.weight"].double() / (self.state[f"{norm}.running_var"].double() + EPS).sqrt()
        weight = self.state[self.site.reads].double().flatten(1) * scale[:, None]  # [dim, width * taps]
        return group_selection(self.moments.covariance, weight, self.taps)[0]

    def kept(self, width: int) -> tuple[int, ...]:
        """The channels that a width keeps, ascending."""
        return full_kept(self.site) if width >= self.site.width else tuple(sorted(self.order[:width].tolist()))

    def tensors(self, width: int, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The site's slim tensors by name, parameters and buffers.

        Args:
            width: 1 to the site's width, at which everything stays as it is.
            state: what the tensors that write the site's channels are cut out of; None: the dense model's.
        """
        kept = self.kept(width)
        output, mean = self.site.reads, f"{_norm(self.site)}.running_mean"
        result = slim_tensors(self.site, {**self.state, **(state or {}), output: self.state[output]}, kept)
        result[mean] = self.state[mean]
        if width < self.site.width:
            dense, moments = self.state[output], self.moments
            rows = torch.arange(self.taps) + torch.tensor(kept)[:, None] * self.taps  # [width, taps]
            none = torch.zeros(len(dense), dtype=torch.float64, device=dense.device)
            index = rows.flatten().to(moments.mean.device)
            flat = dense.flatten(1)
            solved, shift = refit(moments.covariance, moments.mean, index, flat, none, flat[:, index])
            result[output] = solved.to(dense.dtype).view_as(result[output])
            result[mean] = self.state[mean] - shift.to(dense.dtype)
        return result
