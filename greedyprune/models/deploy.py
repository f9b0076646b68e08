"""A detector as it is deployed: its batch norms are folded into the convolutions before them."""

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

from greedyprune.models.detector import Detector

Network = TypeVar("Network", bound=nn.Module)
_NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


def deployed(model: Detector) -> Detector:
    """A copy for inference alone, in eval mode, on the same device: the same answers to rounding, sooner.

    Its backbone has batch norms folded into convolutions that work on channels-last memory; all other tensors are the
    model's own. Train, prune and save the model itself: the backbone's tensors here are no checkpoint's.
    """
    copy = deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}).eval()
    copy.backbone = folded(model.backbone)
    return copy


def folded(network: Network) -> Network:
    """A copy of a backbone or a part of it, in eval mode, with every batch norm in the convolution before it.

    Args:
        network: in each of its modules a norm is registered right after its convolution, as in all backbones here.
    """
    network = deepcopy(network).eval()
    for module in list(network.modules()):
        before, previous = "", None
        for name, child in list(module.named_children()):
            if isinstance(child, _NORMS) and isinstance(previous, nn.Conv2d):
                setattr(module, before, fuse_conv_bn_eval(previous, child))
                setattr(module, name, nn.Identity())
            before, previous = name, child
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
