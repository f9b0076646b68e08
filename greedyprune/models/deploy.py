"""A detector as it is deployed: batch norms inside the convolutions, and what no image changes computed once."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

from greedyprune.models.dab import DABDecoder
from greedyprune.models.detector import Detector
from greedyprune.models.layers import present
from greedyprune.models.level_attention import LevelDecoderLayer

Network = TypeVar("Network", bound=nn.Module)
Size = tuple[int, int]
_NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)
_ANY_SIZES: tuple[Size, Size] = ((64, 96), (128, 96))  # of different numbers of tokens


class Constant(nn.Module):
    """The output of a module whose input is the same for every image.

    Args:
        value: `[1, ...]`.
    """

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """x `[B, ...]`, of which only the number of images is read -> `[B, ...]`."""
        return self.value.expand(len(x), *self.value.shape[1:])


def deployed(model: Detector, size: Size | None = None, constant: Iterable[str] | None = None) -> Detector:
    """A copy for inference alone, in eval mode, on the same device: the same answers to rounding, sooner.

    Its backbone has batch norms folded into convolutions that work on channels-last memory. What does not depend on the
    image, as the self-attention of a first decoder layer whose queries are learned, is there as constants, and linear
    maps that follow each other are one. All other tensors are those of the model. Train, prune and save the model
    itself: this is no checkpoint's form.

    Args:
        model: the detector.
        size: height and width of every image that the copy gets, none of them padded: then position embeddings are
            constants, too. None: any.
        constant: the modules that are constants, where that is known; see `constant_modules`.
    """
    names = constant_modules(model, size) if constant is None else constant
    copy = without_norms(model)
    there = {name for name, _ in copy.named_modules()}
    kept = [name for name in names if name in there]
    if kept:
        for name, value in _outputs(copy, size or _ANY_SIZES[0], kept).items():
            owner, _, attribute = name.rpartition(".")
            setattr(copy.get_submodule(owner), attribute, Constant(value))
    decoder = copy.transformer.decoder
    # Constants of the dense model may be of a first layer that is gone here.
    decoder.constant_start = f"transformer.decoder.layers.{decoder.answering[0]}.self_attn" in kept
    if isinstance(decoder, DABDecoder) and not any(isinstance(each, LevelDecoderLayer) for each in decoder.layers):
        _merge_positions(decoder)
    return copy


def without_norms(model: Detector) -> Detector:
    """A copy in eval mode whose backbone has its batch norms in the convolutions; nothing else differs.

    Its submodules are called as those of the model are.
    """
    copy = deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}).eval()
    copy.backbone = folded(model.backbone)
    return copy


def _merge_positions(decoder: DABDecoder) -> None:
    """Put the last linear map of the embedding of boxes into those that read it: self-attention's, in every layer."""
    if isinstance(decoder.ref_point_head, Constant):  # of a decoder of one layer, which has no use for it any more
        return
    *_, last = decoder.ref_point_head.layers
    readers = [
        (layer, name)
        for _, layer in present(decoder.layers)
        for name in ("sa_qpos_proj", "sa_kpos_proj", "ca_qpos_proj")
        if isinstance(getattr(layer, name), nn.Linear)
    ]
    assert isinstance(last, nn.Linear)
    for layer, name in readers:
        reader = getattr(layer, name)
        merged = nn.Linear(last.in_features, len(reader.weight), device="meta")
        weight, bias = reader.weight.detach(), reader.bias.detach()
        merged.weight = nn.Parameter(weight @ last.weight.detach(), requires_grad=False)
        merged.bias = nn.Parameter(bias + weight @ last.bias.detach(), requires_grad=False)
        setattr(layer, name, merged)
    decoder.ref_point_head.layers[-1] = nn.Identity()


@torch.no_grad()
def constant_modules(model: Detector, size: Size | None = None) -> tuple[str, ...]:
    """The outermost modules that are called once and give the same for every image.

    They are found by two images of noise.

    Args:
        model: the detector.
        size: height and width of all images; None: any.
    """
    names = [name for name, module in model.named_modules() if name and not isinstance(module, nn.ModuleList)]
    first, second = (_outputs(model, size or _ANY_SIZES[seed], names, seed) for seed in (0, 1))
    same = [name for name, value in first.items() if name in second and _equal(value, second[name])]
    return tuple(name for name in same if not any(name.startswith(f"{other}.") for other in same))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _outputs(model: Detector, size: Size, names: Sequence[str], seed: int = 0) -> dict[str, Tensor]:
    """What modules give for an image of noise `[1, ...]`, of those that are called once and give a tensor."""
    seen: dict[str, list[Any]] = {name: [] for name in names}
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: seen[name].append(output)

    was, parameter = model.training, next(model.parameters())
    with ExitStack() as stack, torch.no_grad():
        for name in names:
            stack.callback(model.get_submodule(name).register_forward_hook(keep(name)).remove)
        model.eval()(image.to(parameter))
    model.train(was)
    return {name: found[0] for name, found in seen.items() if len(found) == 1 and isinstance(found[0], Tensor)}


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
