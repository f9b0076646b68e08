"""Backbones: torchvision's ResNets with frozen batch norm, and the small one of the embedded demo."""

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from greedyprune.errors import UserError
from greedyprune.models.batch import ImageBatch

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
BACKBONES = (*RESNETS, "small")


class Residual(nn.Module):
    """Two 3 x 3 convolutions around a shortcut; the first one has the stride."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
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

    What lies in the padding is blanked after every convolution, as if each image ended there with the convolution's
    own zeros: an image gets the same features alone and in any batch.
    """

    stem_channels = 32
    stage_channels = (48, 96, 144)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, self.stem_channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(self.stem_channels)
        previous = self.stem_channels
        for index, channels in enumerate(self.stage_channels, start=1):
            stage = nn.Sequential(Residual(previous, channels, 2), Residual(channels, channels, 1))
            self.add_module(f"layer{index}", stage)
            previous = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """x `[B, 3, H, W]`, mask `[B, H, W]` (True: padding) or None -> the last stage's features under "0"."""
        shown = None if mask is None else (~mask)[:, None, ::2, ::2].to(x.dtype)  # [B, 1, h, w], here of the stem
        x = blank(self.bn1(self.conv1(x)).relu(), shown)
        for index in range(1, len(self.stage_channels) + 1):
            shown = None if shown is None else shown[..., ::2, ::2]
            for block in self.get_submodule(f"layer{index}").children():
                x = block(x, shown)
        return {"0": x}


def blank(x: Tensor, shown: Tensor | None) -> Tensor:
    """Zeros where `shown` is 0."""
    return x if shown is None else x * shown


class Backbone(nn.Module):
    """Images to the feature map that the Transformer reads.

    Args:
        name: one of `BACKBONES`.
        dilation: stride 16 instead of 32 in the last stage of a ResNet (DC5).

    Raises:
        UserError: an unknown name, or dilation of a network that has none.
    """

    def __init__(self, name: str, dilation: bool = False) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise UserError(f"backbone {name!r} is unknown; choose one of {', '.join(BACKBONES)}")
        if dilation and name not in ("resnet50", "resnet101"):
            raise UserError(f"backbone {name} cannot be dilated; leave out --dilation or take resnet50 or resnet101")
        if name == "small":
            self.body: nn.Module = SmallResNet()
            self.channels, self.stride = SmallResNet.stage_channels[-1], 16
            return
        network = getattr(torchvision.models, name)(
            weights=None,
            norm_layer=FrozenBatchNorm2d,
            replace_stride_with_dilation=[False, False, dilation],
        )
        self.channels, self.stride = network.fc.in_features, 16 if dilation else 32
        for key, parameter in network.named_parameters():
            # DETR trains layers 2 to 4; the stem and layer 1 keep their ImageNet weights.
            parameter.requires_grad_(key.startswith(("layer2", "layer3", "layer4")))
        self.body = IntermediateLayerGetter(network, return_layers={"layer4": "0"})

    def forward(self, images: ImageBatch) -> tuple[Tensor, Tensor | None]:
        """Features `[B, channels, h, w]`, and their mask `[B, h, w]` (True: padding) or None."""
        if isinstance(self.body, SmallResNet):
            mask = None if images.mask is None else images.mask[:, :: self.stride, :: self.stride]
            return self.body(images.tensors, images.mask)["0"], mask
        features = self.body(images.tensors)["0"]
        if images.mask is None:
            return features, None
        return features, shrink_mask(images.mask, features.shape[-2:])


def shrink_mask(mask: Tensor, size: torch.Size) -> Tensor:
    """`[B, H, W]` bool to the nearest `[B, h, w]`."""
    return F.interpolate(mask[None].float(), size=size).to(torch.bool)[0]
