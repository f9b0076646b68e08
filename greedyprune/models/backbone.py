"""Backbones: torchvision's ResNets with frozen batch norm, and the small one of the embedded demo."""

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from greedyprune.errors import UserError
from greedyprune.models.batch import ImageBatch
from greedyprune.models.layout import Blocks

# Inner widths of a block of the first stage, which double with every further stage, and the blocks of every stage.
_STAGES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "resnet18": ((64,), (2, 2, 2, 2)),
    "resnet34": ((64,), (3, 4, 6, 3)),
    "resnet50": ((64, 64), (3, 4, 6, 3)),
    "resnet101": ((64, 64), (3, 4, 23, 3)),
}
RESNETS = tuple(_STAGES)
BACKBONES = (*RESNETS, "small")


class Residual(nn.Module):
    """Two 3 x 3 convolutions, with `width` channels between them, around a shortcut; the first one has the stride."""

    def __init__(self, in_channels: int, channels: int, stride: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor, shown: Tensor | None) -> Tensor:
        """x `[B, in, h, w]`; `shown` `[B, 1, h', w']` is 0 at the padding of the result, None without any."""
        out = blank(self.bn1(self.conv1(x)).relu(), shown)
        return blank((self.bn2(self.conv2(out)) + self.shortcut(x)).relu(), shown)


class SmallResNet(nn.Module):
    """A residual network of stride 16 for images of some 160 px; its batch norm is trained, not frozen.

    Padding is blanked after every convolution, as if each image ended there with the convolution's
    own zeros: an image gets the same features alone and in any batch.

    Args:
        levels: how many of its last stages answer.
        widths: the inner width of every block; empty: dense.
    """

    stem_channels = 32
    stage_channels = (48, 96, 144)
    stage_strides = (4, 8, 16)

    def __init__(self, levels: int = 1, widths: Blocks = ()) -> None:
        super().__init__()
        inner = iter(widths or dense_widths("small"))
        self.levels = levels
        self.conv1 = nn.Conv2d(3, self.stem_channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(self.stem_channels)
        previous = self.stem_channels
        for index, channels in enumerate(self.stage_channels, start=1):
            stage = nn.Sequential(
                Residual(previous, channels, 2, *next(inner)), Residual(channels, channels, 1, *next(inner))
            )
            self.add_module(f"layer{index}", stage)
            previous = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, padding: Tensor | None) -> dict[str, Tensor]:
        """x `[B, 3, H, W]`, padding `[B, H, W]` (True: there) or None -> the last stages' features by their number."""
        shown = None if padding is None else (~padding)[:, None, ::2, ::2].to(x.dtype)  # [B, 1, h, w], here of the stem
        x = blank(self.bn1(self.conv1(x)).relu(), shown)
        maps = {}
        for index in range(1, len(self.stage_channels) + 1):
            shown = None if shown is None else shown[..., ::2, ::2]
            for block in self.get_submodule(f"layer{index}").children():
                x = block(x, shown)
            maps[str(index)] = x
        return dict(list(maps.items())[-self.levels :])


def dense_widths(name: str) -> Blocks:
    """The inner widths of every block of a dense backbone, front to back."""
    if name == "small":
        return tuple((channels,) for channels in SmallResNet.stage_channels for _ in range(2))
    first, stages = _STAGES[name]
    return tuple(tuple(width << stage for width in first) for stage, blocks in enumerate(stages) for _ in range(blocks))


def blank(x: Tensor, shown: Tensor | None) -> Tensor:
    """Zeros where `shown` is 0."""
    return x if shown is None else x * shown


class Backbone(nn.Module):
    """Images to the feature maps that the Transformer reads.

    Args:
        name: one of `BACKBONES`.
        dilation: stride 16 instead of 32 in the last stage of a ResNet (DC5).
        levels: how many feature maps are wanted; there are as many as have a stride of at least 8, if that is fewer.
        widths: the inner widths of every block; empty: dense.

    Attributes:
        level_channels: channels of every feature map, from the finest to the coarsest.
        level_strides: pixels between its cells.

    Raises:
        UserError: an unknown name, or dilation of a network that has none.
    """

    def __init__(self, name: str, dilation: bool = False, levels: int = 1, widths: Blocks = ()) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise UserError(f"backbone {name!r} is unknown; choose one of {', '.join(BACKBONES)}")
        if dilation and name not in ("resnet50", "resnet101"):
            raise UserError(f"backbone {name} cannot be dilated; leave out --dilation or take resnet50 or resnet101")
        if name == "small":
            levels = min(levels, 2)
            self.body: nn.Module = SmallResNet(levels, widths)
            self.level_channels = SmallResNet.stage_channels[-levels:]
            self.level_strides = SmallResNet.stage_strides[-levels:]
            return
        network = getattr(torchvision.models, name)(
            weights=None,
            norm_layer=FrozenBatchNorm2d,
            replace_stride_with_dilation=[False, False, dilation],
        )
        for module, inner, full in zip(_blocks(network).values(), widths, dense_widths(name), strict=False):
            if inner != full:
                _narrow(module, inner)
        levels = min(levels, 3)
        widest = network.fc.in_features
        self.level_channels = (widest // 4, widest // 2, widest)[-levels:]
        self.level_strides = (8, 16, 16 if dilation else 32)[-levels:]
        for key, parameter in network.named_parameters():
            # DETR trains layers 2 to 4; the stem and layer 1 keep their ImageNet weights.
            parameter.requires_grad_(key.startswith(("layer2", "layer3", "layer4")))
        network.relu.inplace = False  # of the stem: it would change what its norm gave
        names = ("layer2", "layer3", "layer4")[-levels:]
        self.body = IntermediateLayerGetter(network, return_layers={name: name for name in names})

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """Its blocks by their names in it, front to back."""
        return _blocks(self)

    @property
    def inner_widths(self) -> Blocks:
        """The inner widths of its blocks, front to back."""
        return tuple(
            tuple(child.weight.shape[0] for child in block.children() if isinstance(child, nn.Conv2d))[:-1]
            for block in self.blocks.values()
        )

    @property
    def channels(self) -> int:
        """Channels of the last feature map."""
        return self.level_channels[-1]

    @property
    def stride(self) -> int:
        """Pixels between the cells of the last feature map."""
        return self.level_strides[-1]

    def forward(self, images: ImageBatch) -> list[Tensor]:
        """Every feature map `[B, channels, h, w]`, from the finest to the coarsest."""
        given = (images.tensors, images.padding) if isinstance(self.body, SmallResNet) else (images.tensors,)
        return list(self.body(*given).values())

    def padding(self, images: ImageBatch, size: torch.Size) -> Tensor | None:
        """Padding `[B, h, w]` (True: there) of a feature map whose height and width are `size`; None: there is none."""
        padding = images.padding
        if padding is None or not isinstance(self.body, SmallResNet):
            return None if padding is None else shrink_padding(padding, size)
        while padding.shape[-2:] != size and max(padding.shape[-2:]) > 1:
            padding = padding[:, ::2, ::2]  # the cells that it blanks after each convolution of stride 2
        return padding


def _blocks(network: nn.Module) -> dict[str, nn.Module]:
    kinds = Residual, BasicBlock, Bottleneck
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def _narrow(block: nn.Module, widths: tuple[int, ...]) -> None:
    """Make the convolutions inside a ResNet's block anew, with other inner widths; they start as torchvision's do."""
    last = len(widths) + 1
    for index in range(1, last + 1):
        old = block.get_submodule(f"conv{index}")
        assert isinstance(old, nn.Conv2d)
        channels = old.in_channels if index == 1 else widths[index - 2]
        width = old.out_channels if index == last else widths[index - 1]
        kernel, stride, padding, dilation = old.kernel_size[0], old.stride[0], int(old.padding[0]), old.dilation[0]
        convolution = nn.Conv2d(channels, width, kernel, stride, padding, dilation, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        setattr(block, f"conv{index}", convolution)
        if index != last:
            setattr(block, f"bn{index}", FrozenBatchNorm2d(width))


def shrink_padding(padding: Tensor, size: torch.Size) -> Tensor:
    """`[B, H, W]` bool to the nearest `[B, h, w]`."""
    return F.interpolate(padding[None].float(), size=size).to(torch.bool)[0]
