"""Tensors of many zeros, packed into two that lie in the same safetensors file: a bit mask, and what is not zero.

Of n numbers of 4 bytes, k of them not zero, n / 8 + 4 k bytes are left. What is not packed stays as it is, so that
every reader of safetensors files reads a packed one, too. Nothing in it can become more than 32 times as large.
"""

import json
import math
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.files import atomic_write
from greedyprune.ranges import shown

METADATA_KEY = "packed"
FORMAT = 1
_KEPT, _VALUES = "kept", "values"
_LARGEST_HALF = torch.finfo(torch.float16).max
_MOST_DIMENSIONS = 8


@dataclass(frozen=True)
class Sizes:
    """Bytes of the same tensors in three files.

    Attributes:
        dense: one number after another.
        zipped: that file compressed (deflate, as in a zip).
        packed: this format.
    """

    dense: int
    zipped: int
    packed: int


def pack_file(source: Path, path: Path, half: bool = False) -> Sizes:
    """Write the tensors and the metadata of a safetensors file packed; a kill leaves the old file or the new one.

    Args:
        source: a file that is not packed.
        path: where; may be `source` itself.
        half: keep what is not zero as float16.

    Raises:
        UserError: a number is too large for float16.
    """
    dense = source.read_bytes()
    with safetensors.safe_open(source, framework="pt") as file:
        metadata = file.metadata() or {}
    entries, about = pack(safetensors.torch.load(dense), half)
    content = safetensors.torch.save(entries, {**metadata, **about})
    atomic_write(path, content)
    return Sizes(len(dense), len(zlib.compress(dense)), len(content))


def write_packed(write: Callable[[Path], None], path: Path, half: bool = False) -> Sizes:
    """Have a safetensors file written beside `path`, and pack it there; see `pack_file`.

    Args:
        write: writes the file that is not packed.
        path: where the packed one goes; its folder is made.
        half: keep what is not zero as float16.

    Raises:
        UserError: a number is too large for float16.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        whole = Path(folder) / path.name
        write(whole)
        return pack_file(whole, path, half)


def pack(tensors: Mapping[str, Tensor], half: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors as a file holds them, and the metadata that it needs to be read again.

    Only what has so many zeros that it gets smaller is packed. Unpacked again every number has the bits that it had,
    -0.0 too; with `half` those of packed tensors are rounded.

    Args:
        tensors: by name, on any device.
        half: keep what is not zero as float16.

    Raises:
        UserError: a number is too large for float16.
    """
    entries: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, given in tensors.items():
        tensor = given.detach().cpu().contiguous()
        kept = (tensor != 0) | tensor.signbit()
        values = tensor[kept]
        size = -(-tensor.numel() // 8) + values.nbytes
        parts = [f"{name}.{_KEPT}", f"{name}.{_VALUES}"]
        taken = any(part in tensors for part in parts)
        if not tensor.is_floating_point() or size >= tensor.nbytes or not len(values) or taken:
            entries[name] = tensor
            continue
        if half and (largest := float(values.abs().max())) > _LARGEST_HALF:
            raise UserError(f"tensor {name} holds {largest:g}, which float16 cannot; keep its values as float32")
        bits = torch.from_numpy(np.packbits(kept.flatten().numpy(), bitorder="little"))
        entries |= dict(zip(parts, (bits, values.half() if half else values), strict=True))
        shapes[name] = list(tensor.shape)
    return entries, {METADATA_KEY: json.dumps({"format": FORMAT, "shapes": shapes})}


def unpacked(entries: Mapping[str, Tensor], metadata: Mapping[str, str], place: str) -> dict[str, Tensor]:
    """The tensors of a file, those of one that is not packed as they are.

    Args:
        entries: what the file holds.
        metadata: its metadata.
        place: where it was read, for messages.

    Raises:
        UserError: it is of a newer format, or what it says of a tensor is not what it holds.
    """
    if METADATA_KEY not in metadata:
        return dict(entries)
    shapes = _shapes(metadata[METADATA_KEY], place)
    parts = {f"{name}.{part}" for name in shapes for part in (_KEPT, _VALUES)}
    result = {name: tensor for name, tensor in entries.items() if name not in parts}
    for name, shape in shapes.items():
        if name in result:
            raise UserError(f"{place} is damaged: it holds {name} packed and as it is")
        try:
            result[name] = _unpack(entries[f"{name}.{_KEPT}"], entries[f"{name}.{_VALUES}"], shape)
        except (KeyError, ValueError):
            raise UserError(
                f"{place} is damaged: its packed tensor {name} is not of shape {_shown_shape(shape)}"
            ) from None
    return result


def _shown_shape(shape: Any) -> str:
    """A shape that a file claims, for a message."""
    return str(shape) if _is_shape(shape) else shown(shape)


def _shapes(text: str, place: str) -> dict[str, Any]:
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict) or not isinstance(about.get("shapes"), dict):
        raise UserError(f"{place} has damaged metadata: what it says about packed tensors is no JSON object of shapes")
    if about.get("format") != FORMAT:
        raise UserError(
            f"{place}: its packed tensors are of format {shown(about.get('format'))}, this version reads {FORMAT}: it "
            "is damaged, or of a newer version"
        )
    shapes: dict[str, Any] = about["shapes"]
    return shapes


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) <= _MOST_DIMENSIONS
        and all(isinstance(each, int) and not isinstance(each, bool) and 0 < each < 2**31 for each in shape)
    )


def _unpack(kept: Tensor, values: Tensor, shape: Any) -> Tensor:
    """Raises ValueError where the three do not fit each other; memory is taken only once they do."""
    if not _is_shape(shape) or kept.dtype != torch.uint8 or kept.dim() != 1 or values.dim() != 1:
        raise ValueError(shape)
    size = math.prod(shape)
    if len(kept) != -(-size // 8):
        raise ValueError(shape)
    bits = np.unpackbits(kept.numpy(), bitorder="little").view(bool)
    if bits[size:].any() or int(bits.sum()) != len(values):
        raise ValueError(shape)
    result = torch.zeros(size, dtype=values.dtype)
    result[torch.from_numpy(bits[:size])] = values
    return result.view(shape)
