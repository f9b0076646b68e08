"""Darknet's detectors with a region layer, as one module."""

import torch
from torch import Tensor, nn

from greedyprune.classes import Classes
from greedyprune.errors import UserError
from greedyprune.models.darknet.cfg import Cfg, Convolutional, Layer, MaxPool, Region
from greedyprune.models.darknet.cfg import Reorg as ReorgSpec
from greedyprune.models.darknet.cfg import Route as RouteSpec
from greedyprune.models.darknet.layers import ConvLayer, Reorg, Route, Shortcut
from greedyprune.models.darknet.layers import MaxPool as Pool
from greedyprune.models.darknet.options import DarknetInfo


class Darknet(nn.Module):
    """YOLOv2 or a relative of it (Redmon and Farhadi 2017, "YOLO9000").

    Args:
        cfg: the layers, with the widths of the dense detector.
        info: what its labels mean, and what its numbers are computed by.
        filters: output channels of every convolution where they are fewer; None: the cfg's.

    Attributes:
        layers: one module for every section of the cfg between [net] and [region].
        seen: int64 `[]`, images that it was trained on, as `.weights` files say it; the loss asks.

    Raises:
        UserError: channels that cannot be put together.
    """

    seen: Tensor
    anchors: Tensor

    def __init__(self, cfg: Cfg, info: DarknetInfo | None = None, filters: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.cfg, self.info = cfg, info or DarknetInfo()
        own = cfg if filters is None else cfg.with_filters(filters)
        self.layers = nn.ModuleList(_module(own, number, self.info) for number in range(len(own.layers)))
        self._reads = [own.reads(number) for number in range(len(own.layers))]
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("anchors", torch.tensor(cfg.region.anchors), persistent=False)

    @property
    def region(self) -> Region:
        """What the last map means."""
        return self.cfg.region

    @property
    def classes(self) -> Classes:
        """What its labels mean."""
        return self.info.classes(self.region.classes)

    @property
    def convolutions(self) -> list[ConvLayer]:
        """Its convolutions, front to back."""
        return [layer for layer in self.layers if isinstance(layer, ConvLayer)]

    @property
    def filters(self) -> tuple[int, ...]:
        """Output channels of every convolution, as its tensors are."""
        return tuple(len(layer.conv.weight) for layer in self.convolutions)

    def forward(self, images: Tensor) -> Tensor:
        """The last map `[B, anchors (5 + classes), h, w]` of images `[B, 3, H, W]` in 0..1.

        H and W are any multiples of the cfg's stride, 32 in YOLOv2; h and w are as many strides.
        """
        made: list[Tensor] = []
        for layer, reads in zip(self.layers, self._reads, strict=True):
            given = [made[source] if source >= 0 else images for source in reads]
            made.append(layer(*given))
        return made[-1]


def _module(cfg: Cfg, number: int, info: DarknetInfo) -> nn.Module:
    layer: Layer = cfg.layers[number]
    channels = [3 if source < 0 else cfg.channels()[source] for source in cfg.reads(number)]
    if isinstance(layer, Convolutional):
        return ConvLayer(layer, channels[0], info.norm_epsilon)
    if isinstance(layer, MaxPool):
        return Pool(layer.size, layer.stride)
    if isinstance(layer, RouteSpec):
        return Route()
    if not isinstance(layer, ReorgSpec):
        return Shortcut(layer.activation)
    if info.reorg == "darknet" and channels[0] % layer.stride**2:
        raise UserError(
            f"layer {number}, a reorg of stride {layer.stride}, reads {channels[0]} channels; in Darknet's order they "
            f"must be a multiple of {layer.stride**2}; choose the plain one"
        )
    return Reorg(layer.stride, info.reorg)
