"""The CUDA kernels on tensors. Shapes are those of `greedyprune.ops.ms_deform_attn`; nothing is checked here."""

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from greedyprune_ops import Unavailable
from greedyprune_ops.library import load, numbers, sizes

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
VARIANTS = {"shipped": 0, "plain": 1}


@functools.cache
def library() -> ctypes.CDLL:
    """The CUDA library, checked on the current device.

    Raises:
        Unavailable: see `greedyprune_ops.library.load`; or the driver or the card cannot run it.
    """
    found = load("cuda")
    found.greedyprune_cuda_error.restype = ctypes.c_char_p
    device = torch.cuda.current_device()
    torch.cuda.synchronize(device)  # PyTorch makes the device's context, which the library then shares
    if code := found.greedyprune_cuda_check(device):
        raise Unavailable(
            f"{_message(found, code)}: {torch.cuda.get_device_name(device)} is of compute capability "
            f"{'.'.join(map(str, torch.cuda.get_device_capability(device)))}; build again with the CUDA toolkit that "
            "the driver knows and GREEDYPRUNE_OPS_ARCHS set to that capability"
        )
    return found


def describe() -> str:
    """What was compiled; raises Unavailable where the library cannot be used."""
    library()
    return torch.cuda.get_device_name()


def takes(levels: int) -> bool:
    """Whether the kernels take so many levels."""
    return levels <= library().greedyprune_max_levels()


def forward(
    value: Tensor,
    shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    variant: str = "shipped",
    vector: int = 0,
    group: int = 0,
) -> Tensor:
    """The output `[batch, queries, heads * channels]` in value's dtype.

    Args:
        value: float16, bfloat16, float32 or float64.
        shapes: height and width of every level, in one row.
        locations: sampling locations, fractions.
        weights: sampling weights.
        variant: a name of `VARIANTS`; the plain kernel is there to be compared with.
        vector: channels that a load takes (1, 2 or 16 bytes of them); 0: chosen by the library.
        group: threads that share a head of a query (4, 8, 16 or 32); 0: chosen by the library.
    """
    value = value.contiguous()
    locations, weights = (tensor.to(_wide(value)).contiguous() for tensor in (locations, weights))
    out = value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
    _launch("forward", shapes, (value, locations, weights, out), (VARIANTS[variant], vector, group))
    return out


def backward(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    variant: str = "shipped",
    vector: int = 0,
    group: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of value, locations and weights, each in its own dtype; see `forward`."""
    grad, value = grad.contiguous(), value.contiguous()
    wide = _wide(value)
    places, scales = (tensor.to(wide).contiguous() for tensor in (locations, weights))
    grad_value = torch.zeros(value.shape, dtype=wide, device=value.device)
    grad_locations, grad_weights = torch.empty_like(places), torch.empty_like(scales)
    tensors = (value, places, scales, grad, grad_value, grad_locations, grad_weights)
    _launch("backward", shapes, tensors, (VARIANTS[variant], vector, group))
    return grad_value.to(value.dtype), grad_locations.to(locations.dtype), grad_weights.to(weights.dtype)


def _wide(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _launch(name: str, shapes: Sequence[int], tensors: Sequence[Tensor], choice: tuple[int, int, int]) -> None:
    value, locations = tensors[0], tensors[1]
    device = value.device.index or 0
    code = getattr(library(), f"greedyprune_cuda_{name}")(
        device,
        ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream),
        _DTYPES[value.dtype],
        sizes(value, locations),
        numbers(shapes),
        (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors)),
        (ctypes.c_int * 3)(*choice),
    )
    if code:
        raise RuntimeError(f"deformable attention, {name}: {_message(library(), code)}")


def _message(found: ctypes.CDLL, code: int) -> str:
    return str(found.greedyprune_cuda_error(code).decode())
