"""The custom operator `greedyprune::ms_deform_attn` and its gradient, as PyTorch knows them.

Registered whether anything is built or not: a program that was exported where kernels are built runs where none are.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from greedyprune.ops.built import find
from greedyprune.ops.twin import ms_deform_attn_twin, ms_deform_attn_twin_backward

_NAME = "greedyprune::ms_deform_attn"
_GRADIENT = "greedyprune::ms_deform_attn_backward"

torch.library.define(
    _NAME,
    "(Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    _GRADIENT,
    "(Tensor grad, Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)

OPERATOR = torch.ops.greedyprune.ms_deform_attn
_BACKWARD = torch.ops.greedyprune.ms_deform_attn_backward


def _kernels(value: Tensor, locations: Tensor) -> ModuleType | None:
    """The module whose kernels take this call; None: pure PyTorch takes it."""
    module = find(value.device.type).module
    if module is None or not value.numel() or not locations.numel() or not module.takes(locations.shape[3]):
        return None
    return module


@torch.library.impl(_NAME, "default")
def _forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    module = _kernels(value, locations)
    if module is None:
        return ms_deform_attn_twin(value, _pairs(shapes), locations, weights).contiguous()
    return module.forward(value, shapes, locations, weights)


@torch.library.impl(_GRADIENT, "default")
def _backward(
    grad: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    module = _kernels(value, locations)
    if module is None:
        return ms_deform_attn_twin_backward(grad, value, _pairs(shapes), locations, weights)
    return module.backward(grad, value, shapes, locations, weights)


@torch.library.register_fake(_NAME)
def _fake_forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


@torch.library.register_fake(_GRADIENT)
def _fake_backward(
    grad: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def _remember(ctx: Any, inputs: tuple[Tensor, Sequence[int], Tensor, Tensor], output: Tensor) -> None:
    value, shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)
    ctx.shapes = shapes


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    grad_value, grad_locations, grad_weights = _BACKWARD(grad, value, ctx.shapes, locations, weights)
    return grad_value, None, grad_locations, grad_weights


def _refuse(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError("deformable attention has first derivatives only, as PyTorch's grid_sample has")


torch.library.register_autograd(_NAME, _differentiate, setup_context=_remember)
torch.library.register_autograd(_GRADIENT, _refuse)


def _pairs(shapes: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(shapes[::2], shapes[1::2], strict=True))
