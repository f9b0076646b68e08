"""What linear layers and convolutions read, and how much the answer depends on what they give."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.pruning.kinds.base import Padding
from greedyprune.pruning.kinds.channels import ReaderMoments
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
    """

    def __init__(self, reader: Reader, model: nn.Module) -> None:
        layer = model.get_submodule(reader.module)
        weight = layer.weight
        assert isinstance(weight, Tensor)
        self.layer, self.weight = layer, weight
        norm = model.get_submodule(reader.norm) if reader.norm else None
        power = torch.zeros(len(weight), len(weight), dtype=torch.float64, device=weight.device)
        self.moments = ReaderMoments(reader, layer, norm, Moments(weight[0].numel(), weight.device), power)
        self._inputs: list[Tensor] = []
        self._probes: list[Tensor] = []

    def watch(self, stack: ExitStack) -> None:
        """Listen to the layer until the stack is closed."""

        def read(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            self._inputs.append(args[0].detach())
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
    """

    def __init__(self, reader: Reader, model: nn.Module, weighted: bool) -> None:
        layer = model.get_submodule(reader.module)
        assert isinstance(layer, nn.Conv2d)
        self.layer, self.weighted = layer, weighted
        dim, device = layer.out_channels, layer.weight.device
        norm = model.get_submodule(reader.norm) if reader.norm else None
        power = torch.zeros(dim, dim, dtype=torch.float64, device=device) if weighted else None
        self.moments = ReaderMoments(reader, layer, norm, Moments(layer.weight[0].numel(), device), power)
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []

    def watch(self, stack: ExitStack) -> None:
        """Listen to the convolution until the stack is closed."""

        def read(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            self._inputs.append(args[0].detach())
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


def unfold(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """`[B, C, h, w]` -> `[B, C * taps, positions]`: the columns that `weight.flatten(1)` multiplies."""
    kernel, stride, dilation = convolution.kernel_size, convolution.stride, convolution.dilation
    padding = tuple(int(side) for side in convolution.padding)
    return F.unfold(x, kernel, dilation, padding, stride)
