"""The one check of weights that come from outside: from a file, or a state dict that a caller gives."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from greedyprune.errors import UserError

# What weights may be stored as; all are computed with as float32.
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_COUNTER = "num_batches_tracked"
_SHARING = 16  # how often, on average, a number of a file may be part of a tensor; heads that layers share are


def check_weights(state: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    """Weights that can be computed with, in float32; batch norm's counters stay whole numbers.

    Args:
        state: tensors by name.
        place: where they are from, for messages.

    Raises:
        UserError: names the first tensor that is not of real floating-point numbers in memory of its own, is empty,
            holds NaN or infinity, or is a variance below 0.
    """
    for name, value in state.items():
        if amiss := _form(name, value):
            raise UserError(f"{place}: tensor {name} {amiss}")
    held = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in state.values()}
    if sum(value.nbytes for value in state.values()) > _SHARING * sum(held.values()):
        raise UserError(f"{place}: its tensors overlap each other; save copies of them (clone())")
    checked = {}
    for name, value in state.items():
        number = value.detach() if _is_counter(name) else value.detach().to(torch.float32)
        if amiss := _numbers(name, number):
            raise UserError(f"{place}: tensor {name} {amiss}; it is damaged, or its training diverged")
        checked[name] = number
    return checked


def _form(name: str, value: Tensor) -> str:
    """What is amiss with a tensor's kind; empty: nothing."""
    if value.layout is not torch.strided or value.is_nested:
        return "is sparse or nested; save it dense (to_dense())"
    if value.is_meta:
        return "has a shape and no numbers (it is on the meta device)"
    if value.is_quantized:
        return "is quantized; save the model before quantization"
    if _is_counter(name):
        return "" if value.numel() == 1 and not value.is_complex() else f"is no counter: its shape is {_shape(value)}"
    if value.dtype not in FLOATS:
        kinds = ", ".join(str(kind).removeprefix("torch.") for kind in FLOATS)
        return f"is of {str(value.dtype).removeprefix('torch.')}; weights are {kinds}"
    if not value.numel():
        return f"is empty: its shape is {_shape(value)}"
    if value.nbytes > value.untyped_storage().nbytes():
        return f"of shape {_shape(value)} has fewer numbers than that (it is expanded); save a copy of it (clone())"
    return ""


def _numbers(name: str, value: Tensor) -> str:
    """What is amiss with a tensor's numbers, in one pass; empty: nothing. Counters are not computed with."""
    if _is_counter(name):
        return ""
    least, most = (float(end) for end in torch.aminmax(value))
    if not (math.isfinite(least) and math.isfinite(most)):
        wrong = int(value.isfinite().logical_not().sum())
        return f"holds NaN or infinity ({wrong:,} of {value.numel():,} numbers)"
    if least < 0 and name.endswith("running_var"):
        return f"is a variance and holds {least:g}"
    return ""


def _is_counter(name: str) -> bool:
    return name.endswith(_COUNTER)


def _shape(value: Tensor) -> list[int]:
    return list(value.shape)
