"""The layers of Darknet's detectors, every one a module of its own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greedyprune.models.darknet.cfg import Convolutional

# Darknet divides by sqrt(var) + 1e-6, which is sqrt(var' + eps) for this eps and var' of `stored_variance`.
_DARKNET_EPS, _PYTORCH_EPS = 1e-12, 1e-5


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky": lambda: nn.LeakyReLU(0.1),
    "relu": nn.ReLU,
    "linear": nn.Identity,
}


class ConvLayer(nn.Module):
    """A convolution, its batch norm and its activation: `[B, in, h, w]` to `[B, out, h, w]`, over the stride.

    Args:
        layer: what it is.
        channels: input channels.
        epsilon: see `DarknetInfo`.

    Attributes:
        conv: with a bias where there is no norm.
        norm: an Identity where there is none, and
        activation: where it is linear.
    """

    def __init__(self, layer: Convolutional, channels: int, epsilon: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels,
            layer.filters,
            layer.size,
            layer.stride,
            layer.size // 2,
            groups=layer.groups,
            bias=not layer.normalised,
        )
        eps = _DARKNET_EPS if epsilon == "darknet" else _PYTORCH_EPS
        self.norm = nn.BatchNorm2d(layer.filters, eps=eps) if layer.normalised else nn.Identity()
        self.activation = _ACTIVATIONS[layer.activation]()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.activation(self.norm(self.conv(x)))
        return found


def stored_variance(variance: Tensor) -> Tensor:
    """v' with sqrt(v' + 1e-12) = sqrt(v) + 1e-6: what a norm holds of the variance v that Darknet means."""
    exact = variance.double()
    return (exact + 2e-6 * exact.sqrt()).to(variance)


def darknet_variance(stored: Tensor) -> Tensor:
    """The inverse of `stored_variance`."""
    return ((stored.double() + _DARKNET_EPS).sqrt() - 1e-6).square().to(stored)


class MaxPool(nn.Module):
    """The largest of every window, as in Darknet: one more row and column at the end, and none of the border counts.

    With size 2 maps are halved by stride 2, and keep their size with stride 1.

    Args:
        size: side of a window.
        stride: of the windows.
    """

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, h, w]` to `[B, C, ceil(h / stride), ceil(w / stride)]`."""
        before, after = (self.size - 1) // 2, self.size // 2
        if (before, self.stride) != (0, self.size):  # else the kernel does it itself
            x = F.pad(x, (before, after, before, after), value=-torch.inf)
        return F.max_pool2d(x, self.size, self.stride, ceil_mode=self.stride == self.size and not before)

    def extra_repr(self) -> str:
        return f"size={self.size}, stride={self.stride}"


class Route(nn.Module):
    """Maps `[B, C_i, h, w]` one after another in the channels: `[B, sum C_i, h, w]`."""

    def forward(self, *maps: Tensor) -> Tensor:
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)


class Shortcut(nn.Module):
    """The sum of two maps `[B, C, h, w]`, and an activation.

    Args:
        kind: of the activation.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[kind]()

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        found: Tensor = self.activation(x + earlier)
        return found


class Reorg(nn.Module):
    """Squares of s x s pixels put into the channels: `[B, C, h, w]` to `[B, s^2 C, h / s, w / s]`.

    In the `plain` order, channel (s dy + dx) C + c has channel c of the pixels (dy, dx) of all squares. Darknet calls
    its own reorg with the input's size where the output's was meant, and all of its weights are trained so
    (pjreddie/darknet, issue 344): in the `darknet` order memory of `[C, h, w]` is read as `[C / s^2, s h, s w]`, taken
    apart as in the plain order, and read again as `[s^2 C, h / s, w / s]`.

    Args:
        stride: s.
        order: `darknet` or `plain`.
    """

    def __init__(self, stride: int, order: str) -> None:
        super().__init__()
        self.stride, self.order = stride, order

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        s = self.stride
        if self.order == "plain":
            squares = x.reshape(batch, channels, height // s, s, width // s, s)
            return squares.permute(0, 3, 5, 1, 2, 4).reshape(batch, s * s * channels, height // s, width // s)
        squares = x.reshape(batch, channels // (s * s), height, s, width, s)
        return squares.permute(0, 3, 5, 1, 2, 4).reshape(batch, s * s * channels, height // s, width // s)

    def extra_repr(self) -> str:
        return f"stride={self.stride}, order={self.order}"
