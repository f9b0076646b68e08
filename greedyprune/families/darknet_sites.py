"""The sites of Darknet's detectors, found by following the channels of their convolutions."""

import torch
from torch import Tensor, nn

from greedyprune.families.channels import Tracer, convolution_sites, register
from greedyprune.models.darknet import Darknet
from greedyprune.models.darknet.layers import Reorg
from greedyprune.sites import ConvolutionLayout, HiddenSite, Layout

STEP = 8


def darknet_sites(model: Darknet) -> tuple[HiddenSite, ...]:
    """Every convolution's output channels but those of the last one; a shortcut ties what it adds up."""
    side = 2 * model.cfg.stride
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(model.anchors.device)
    return convolution_sites(model, lambda: model(image), part="convolutions", step=STEP).sites


def darknet_layout(model: Darknet) -> Layout:
    """`[width per convolution]`, against those of the dense detector."""
    with torch.device("meta"):
        dense = Darknet(model.cfg, model.info)
    weights = [name for name, module in dense.named_modules() if isinstance(module, nn.Conv2d)]
    widths = zip((f"{name}.weight" for name in weights), dense.filters, strict=True)
    return ConvolutionLayout(dict(widths), darknet_sites(dense))


@register(Reorg)
def reorganised(tracer: Tracer, name: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
    """In Darknet's order the channels of an aligned square of the stride are mixed, in which way depends on the size.

    In the plain one a channel has as many places as pixels are put into the channels.
    """
    assert isinstance(module, Reorg)
    numbers, square = tracer.channels(x), module.stride**2
    if numbers is None:
        return
    if module.order == "darknet":
        mates = numbers.view(-1, square)
        tracer.tie(mates[:, :1].expand_as(mates), mates)
        tracer.spread(y, mates.amax(1).repeat_interleave(square).repeat(square))
    else:
        tracer.spread(y, numbers.repeat(square))
