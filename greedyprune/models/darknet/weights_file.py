"""Darknet's `.weights` files: a header, and every convolution's numbers one after another, without names."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from greedyprune.errors import UserError
from greedyprune.files import atomic_write
from greedyprune.models.darknet.layers import ConvLayer, darknet_variance, stored_variance
from greedyprune.models.darknet.network import Darknet
from greedyprune.models.weights import check_weights

_SHORT, _LONG = struct.Struct("<4i"), struct.Struct("<3iq")  # `seen` has 32 or 64 bits


@dataclass(frozen=True)
class Header:
    """The first numbers of a file.

    Attributes:
        seen: images that the network was trained on.
        size: bytes of the header: 16 or 20.
    """

    seen: int
    size: int


@torch.no_grad()
def read_weights(model: Darknet, path: Path, backbone: bool = False) -> None:
    """Fill a detector from a file.

    Args:
        model: the detector, filled in place.
        path: the file.
        backbone: it may end early, after any convolution; those after it stay as they are.

    Raises:
        UserError: the file cannot be read, has numbers for other layers, or such that cannot be weights.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"weights {path} cannot be read: {error.strerror}") from None
    place = f"weights {path}"
    parts = [_tensors(layer) for layer in model.convolutions]
    ends = np.cumsum([sum(tensor.numel() for _, tensor in named) for named in parts]).tolist()
    header = _header(data, ends if backbone else ends[-1:], place, backbone)
    numbers = torch.from_numpy(np.frombuffer(data, "<f4", offset=header.size).astype(np.float32))
    start = 0
    for index, named in enumerate(parts):
        if start == len(numbers):
            break
        found: dict[str, Tensor] = {}
        for name, tensor in named:
            found[f"convolution {index + 1}, {name}"] = numbers[start : start + tensor.numel()].view_as(tensor)
            start += tensor.numel()
        for (name, tensor), value in zip(named, check_weights(found, place).values(), strict=True):
            tensor.copy_(stored_variance(value) if _is_darknets(model, name) else value)
    if not backbone:
        model.seen.fill_(header.seen)


@torch.no_grad()
def write_weights(model: Darknet, path: Path, long: bool = True) -> None:
    """Write a detector as a file.

    Args:
        model: the detector.
        path: where.
        long: with the header of 20 bytes, as Darknet writes it now; else that of 16 bytes, as before and as
            pytorch-yolo2.

    Raises:
        UserError: more images were seen than the short header can say.
    """
    seen = int(model.seen)
    if not long and seen >= 2**31:
        raise UserError(f"{path} is not written: a header of 16 bytes cannot say {seen} images; use the long one")
    parts = [_LONG.pack(0, 2, 0, seen) if long else _SHORT.pack(0, 0, 0, seen)]
    for layer in model.convolutions:
        for name, tensor in _tensors(layer):
            value = darknet_variance(tensor) if _is_darknets(model, name) else tensor
            parts.append(value.detach().cpu().contiguous().numpy().astype("<f4").tobytes())
    atomic_write(path, b"".join(parts))


def _tensors(layer: ConvLayer) -> list[tuple[str, Tensor]]:
    """What a file holds of a convolution, in its order."""
    norm = layer.norm
    if not isinstance(norm, nn.BatchNorm2d):
        assert layer.conv.bias is not None
        return [("bias", layer.conv.bias), ("weight", layer.conv.weight)]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    about = [("norm.bias", norm.bias), ("norm.weight", norm.weight), ("norm.running_mean", norm.running_mean)]
    return [*about, ("norm.running_var", norm.running_var), ("weight", layer.conv.weight)]


def _is_darknets(model: Darknet, name: str) -> bool:
    return name == "norm.running_var" and model.info.norm_epsilon == "darknet"


def _header(data: bytes, ends: list[int], place: str, backbone: bool) -> Header:
    """The header, whose size is the one with which the file's length fits.

    Args:
        data: the file.
        ends: floats that it may have.
        place: names it.
        backbone: for the message.
    """
    if len(data) < _LONG.size:
        raise UserError(f"{place} has {len(data)} bytes, and no header; it is truncated or no .weights file")
    major, minor, _, seen = _SHORT.unpack_from(data)
    first = _LONG if 10 * major + minor >= 2 and major < 1000 and minor < 1000 else _SHORT  # as Darknet tells them
    for form in (first, _SHORT if first is _LONG else _LONG):
        floats, rest = divmod(len(data) - form.size, 4)
        if not rest and floats in ends:
            seen = form.unpack_from(data)[3]
            if seen < 0:
                raise UserError(f"{place} has seen {seen} images; its header is damaged")
            return Header(seen, form.size)
    floats = (len(data) - first.size) // 4
    least = f"it may end after a convolution only: {ends[0]:,} ... {ends[-1]:,} numbers" if backbone else ""
    whole = f"the layers of the cfg need {ends[-1]:,}; give the cfg that it was trained with"
    early = ", or, if it is a backbone, give it as --backbone_weights" if floats < ends[-1] and not backbone else ""
    raise UserError(f"{place} holds {floats:,} numbers; {least or whole + early}")
