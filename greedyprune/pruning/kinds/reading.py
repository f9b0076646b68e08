"""What linear layers and convolutions read, and how much the answer depends on what they give."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.pruning.kinds.base import Padding
from greedyprune.pruning.kinds.readers import ReaderMoments, input_channels
from greedyprune.pruning.moments import Moments
from greedyprune.pruning.sensitivity import token_weights
from greedyprune.sites import Reader

# Positions of an image that count at a convolution. Neighbours carry much the same, and the cost grows with their
# number.
POSITIONS = 512


class LinearReading:
    """Rows that a linear layer reads; each call of it in a pass counts.

    Args:
        reader: the layer.
        model: the dense model.
        columns: `[units, n]` those of a row that count, unit after unit; None: all.
    """

    def __init__(self, reader: Reader, model: nn.Module, columns: Tensor | None = None) -> None:
        layer = model.get_submodule(reader.module)
        weight = layer.weight
        assert isinstance(weight, Tensor)
        self.layer, self.weight = layer, weight
        self._own = _chosen(columns, weight.shape[1], 1, weight.device)
        norm = model.get_submodule(reader.norm) if reader.norm else None
        power = torch.zeros(len(weight), len(weight), dtype=torch.float64, device=weight.device)
        width = weight.shape[1] if columns is None else columns.numel()
        self.moments = ReaderMoments(reader, layer, norm, Moments(width, weight.device), power, columns)
        self._inputs: list[Tensor] = []
        self._probes: list[Tensor] = []

    def watch(self, stack: ExitStack) -> None:
        """Listen to the layer until the stack is closed."""

        def read(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            rows = args[0].detach()
            # A copy: a sum may be written into it afterwards.
            self._inputs.append(rows.clone() if self._own is None else rows.index_select(-1, self._own))
            self._probes.append(torch.zeros_like(output, requires_grad=True))
            return output + self._probes[-1]

        stack.callback(self.layer.register_forward_hook(read).remove)

    def forget(self) -> None:
        """Forget the calls that are not counted yet."""
        self._inputs.clear()
        self._probes.clear()

    @property
    def calls(self) -> int:
        """Calls in the pass at hand that are not counted yet."""
        return len(self._inputs)

    @property
    def probes(self) -> Sequence[Tensor]:
        """Zeros that were added to what each call gave; their gradient is that of the output."""
        return self._probes

    def count(self, gradients: Sequence[Tensor], padding: Padding) -> Tensor:
        """Count one call in.

        Args:
            gradients: `[B, N, dim]` of its output, of each projection.
            padding: see `Meter.count`.

        Returns:
            `[B, N]` float64, 1 where there is image.
        """
        rows, output = self._inputs.pop(0), self._probes.pop(0)
        power = torch.zeros(output.shape[:-1], dtype=torch.float64, device=output.device)  # [B, N]
        assert self.moments.power is not None
        for gradient in gradients:
            flat = gradient.flatten(0, -2).double()
            self.moments.power.addmm_(flat.T, flat)
            power += flat.square().sum(-1).view_as(power)
        shown = padding(self.moments.reader.module, output)
        valid = torch.ones_like(power) if shown is None else shown.double()
        weights = token_weights(power, valid)
        self.moments.rows.add(rows.flatten(0, -2), weights.flatten())
        return valid


class ConvolutionReading:
    """Rows that a convolution unfolds, at some positions of every image.

    Args:
        reader: the convolution.
        model: the dense model.
        weighted: positions count by how much the answer depends on them.
        columns: `[units, n]` those of its weight that count, unit after unit; None: all.
    """

    def __init__(self, reader: Reader, model: nn.Module, weighted: bool, columns: Tensor | None = None) -> None:
        layer = model.get_submodule(reader.module)
        assert isinstance(layer, nn.Conv2d)
        self.layer, self.weighted = layer, weighted
        weight = layer.weight
        dim, device, width = len(weight), weight.device, weight.shape[1]
        self._own = _chosen(columns, width, layer.groups, device)
        norm = model.get_submodule(reader.norm) if reader.norm else None
        power = torch.zeros(dim, dim, dtype=torch.float64, device=device) if weighted else None
        channels = layer.groups * (width if columns is None else columns.numel())
        rows = Moments(channels * weight[0, 0].numel(), device)
        self.moments = ReaderMoments(reader, layer, norm, rows, power, columns)
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []

    def watch(self, stack: ExitStack) -> None:
        """Listen to the convolution until the stack is closed."""

        def read(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            given = args[0].detach()
            self._inputs.append(given.clone() if self._own is None else given.index_select(1, self._own))
            self._outputs.append(torch.zeros_like(output, requires_grad=True) if self.weighted else output.detach())
            return output + self._outputs[-1] if self.weighted else None

        stack.callback(self.layer.register_forward_hook(read).remove)

    def forget(self) -> None:
        """Forget the calls that are not counted yet."""
        self._inputs.clear()
        self._outputs.clear()

    @property
    def calls(self) -> int:
        """Calls in the pass at hand that are not counted yet."""
        return len(self._inputs)

    @property
    def probes(self) -> Sequence[Tensor]:
        """Zeros that were added to what each call gave; none where positions count alike."""
        return self._outputs if self.weighted else ()

    def count(self, gradients: Sequence[Tensor], padding: Padding) -> None:
        """Count one call in; see `LinearReading.count`. The gradients are `[B, dim, h, w]`."""
        given, output = self._inputs.pop(0), self._outputs.pop(0)
        shown = padding(self.moments.reader.module, output)
        for image, picture in enumerate(given):
            where = torch.ones_like(output[image, 0], dtype=torch.bool) if shown is None else shown[image]
            chosen = torch.nonzero(where.flatten()).flatten()
            if len(chosen) > POSITIONS:
                # A regular grid would fall in step with the rows; these are spread evenly by chance, always the same.
                mixed = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(len(chosen)))
                chosen = chosen[mixed[:POSITIONS].to(chosen.device)]
            rows = unfold(self.layer, picture[None])[0][:, chosen].T
            weights = rows.new_ones(len(rows), dtype=torch.float64)
            if self.moments.power is not None:
                power = torch.zeros_like(weights)
                for gradient in gradients:
                    at = gradient[image].flatten(1)[:, chosen].T.double()  # [positions, dim]
                    self.moments.power.addmm_(at.T, at)
                    power += at.square().sum(-1)
                weights = token_weights(power, weights)
            self.moments.rows.add(rows, weights)


def _chosen(columns: Tensor | None, width: int, groups: int, device: torch.device) -> Tensor | None:
    """The channels of an input that count; None: all, in order. See `input_channels`."""
    if columns is None:
        return None
    channels = input_channels(columns, width, groups).flatten()
    return None if torch.equal(channels, torch.arange(groups * width)) else channels.to(device)


def unfold(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """`[B, C, h, w]` -> `[B, C * taps, positions]`: the columns that `weight.flatten(1)` multiplies."""
    kernel, stride, dilation = convolution.kernel_size, convolution.stride, convolution.dilation
    padding = tuple(int(side) for side in convolution.padding)
    return F.unfold(x, kernel, dilation, padding, stride)
