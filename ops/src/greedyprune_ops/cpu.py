"""The CPU kernels on tensors. Shapes are those of `greedyprune.ops.ms_deform_attn`; nothing is checked here."""

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from greedyprune_ops import Unavailable
from greedyprune_ops.library import load, numbers, pointer, sizes

ISAS = {"auto": 0, "generic": 1, "avx2": 2, "avx512": 3}
_NAMES = {torch.float32: "float32", torch.float64: "float64"}


@functools.cache
def library() -> ctypes.CDLL:
    """The CPU library.

    Raises:
        Unavailable: see `greedyprune_ops.library.load`.
    """
    return load("cpu")


def isas() -> list[str]:
    """The instruction sets that this processor runs, the best last."""
    return [name for name, number in ISAS.items() if number and library().greedyprune_has(number)]


def describe() -> str:
    """The instruction set that is used; raises Unavailable where there is no library."""
    return isas()[-1]


def takes(levels: int) -> bool:
    """Whether the kernels take so many levels: any number."""
    return levels > 0


def forward(
    value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor, isa: str = "auto", threads: int = 0
) -> Tensor:
    """The output `[batch, queries, heads * channels]` in value's dtype.

    Half precision is computed in float32, from float32 copies.

    Args:
        value: float16, bfloat16, float32 or float64.
        shapes: height and width of every level, in one row.
        locations: sampling locations, fractions.
        weights: sampling weights.
        isa: a name of `ISAS`.
        threads: 0: as many as PyTorch uses.
    """
    kind = torch.float64 if value.dtype == torch.float64 else torch.float32
    given = [tensor.to(kind).contiguous() for tensor in (value, locations, weights)]
    batch, queries = locations.shape[:2]
    out = torch.empty(batch, queries, value.shape[2] * value.shape[3], dtype=kind)
    function = getattr(library(), f"greedyprune_forward_{_NAMES[kind]}")
    _check(
        function(
            sizes(value, locations),
            numbers(shapes),
            *map(pointer, given),
            pointer(out),
            threads or torch.get_num_threads(),
            ISAS[isa],
        )
    )
    return out.to(value.dtype)


def backward(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    isa: str = "auto",
    threads: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of value, locations and weights, each in its own dtype; see `forward`."""
    kind = torch.float64 if value.dtype == torch.float64 else torch.float32
    given = [tensor.to(kind).contiguous() for tensor in (grad, value, locations, weights)]
    grads = [torch.empty(tensor.shape, dtype=kind) for tensor in (value, locations, weights)]
    function = getattr(library(), f"greedyprune_backward_{_NAMES[kind]}")
    _check(
        function(
            sizes(value, locations),
            numbers(shapes),
            *map(pointer, given),
            *map(pointer, grads),
            threads or torch.get_num_threads(),
            ISAS[isa],
        )
    )
    return grads[0].to(value.dtype), grads[1].to(locations.dtype), grads[2].to(weights.dtype)


def _check(code: int) -> None:
    if code == 1:
        raise MemoryError("deformable attention: no memory for a copy of one head's values")
    if code:
        raise Unavailable("this processor has no such instruction set")
