"""What a detector costs: parameters, multiply-adds, and time, of the whole and of its measured parts."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from greedyprune.evaluation.predict import autocast, evaluating
from greedyprune.families.base import Family
from greedyprune.models.deformable_attention import sample_levels
from greedyprune.models.layers import dot_product_attention

WHOLE = ""  # the label of the whole detector among its measured parts


def count_parameters(family: Family, model: nn.Module) -> dict[str, int]:
    """Parameters of the model under `WHOLE`, and of each of its measured parts by label; a shared one counts once.

    The Transformer is counted as the published module is: with the box head that its decoder shares.
    """
    parts = {label: model.get_submodule(name) for label, name in family.measured.items()}
    return {label: sum(p.numel() for p in part.parameters()) for label, part in ({WHOLE: model} | parts).items()}


def count_flops(family: Family, model: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    """Multiply-adds of one forward pass over one image, of the model and of its measured parts.

    Counted are linear layers, convolutions, the two products of attention (q k^T and attention times v), and the
    sampling of deformable attention (for every channel of every point, 4 to interpolate between its neighbours and 1 to
    weigh it), from the shapes of a real forward pass; biases, norms, activations and softmax are not. Give a model's
    `deployed` form for what it costs where it runs.

    Args:
        family: of the model.
        model: a detector.
        size: height and width of the image in pixels, as the model gets it.
    """
    counter = _MultiplyAdds()
    totals = dict.fromkeys(family.measured, 0)
    with evaluating(model), counter, ExitStack() as stack:
        for label, name in family.measured.items():

            def enter(*_: Any, label: str = label) -> None:
                totals[label] -= counter.total

            def leave(*_: Any, label: str = label) -> None:
                totals[label] += counter.total

            part = model.get_submodule(name)
            stack.callback(part.register_forward_pre_hook(enter).remove)
            stack.callback(part.register_forward_hook(leave).remove)
        family.answer(model, family.inputs(model, [_image(model, size)]), last_only=True)
    return {WHOLE: counter.total} | totals


def flops_by_weight(family: Family, model: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    """Multiply-adds for each element of the weight of every linear layer and convolution, by the weight's name.

    As often as an element is multiplied in a forward pass: weights of other sizes cost in proportion, as long as maps
    and tokens stay as many.

    Args:
        family: of the model.
        model: in the form that is counted.
        size: see `count_flops`.
    """
    counter = _MultiplyAdds()
    with evaluating(model), counter:
        family.answer(model, family.inputs(model, [_image(model, size)]), last_only=True)
    found = {
        name: counter.weights[id(tensor)] for name, tensor in model.named_parameters() if id(tensor) in counter.weights
    }
    return {name: total // model.get_parameter(name).numel() for name, total in found.items()}


def _image(model: nn.Module, size: tuple[int, int]) -> Tensor:
    """A blank image `[3, h, w]` where the model is."""
    parameter = next(model.parameters())
    return torch.zeros(3, *size, device=parameter.device, dtype=parameter.dtype)


class _MultiplyAdds(TorchFunctionMode):
    """Adds up multiply-adds of the calls made under it.

    It listens to the functions that are called, not to the kernels that run: which kernel attention takes, and with
    it what a counter of kernels sees, depends on the device, the padding and the head dims.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.weights: Counter[int] = Counter()  # by the id of a layer's weight

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := _FORMULAS.get(func):
            made = count(result, *args, **(kwargs or {}))
            self.total += made
            if count in (_linear, _convolution):
                weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
                self.weights[id(weight)] += made
        return result


def _linear(result: Tensor, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return result.numel() * weight.shape[-1]


def _convolution(result: Tensor, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return result.numel() * weight[0].numel()  # weight [out, in / groups, *kernel]


def _attention(result: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]  # [B, heads, N] x M
    return pairs * (query.shape[-1] + value.shape[-1])


def _sampling(result: Tensor, value: Tensor, shapes: Any, locations: Tensor, *_: Any, **__: Any) -> int:
    levels, points = locations.shape[3:5]
    return result.numel() * levels * points * (4 + 1)


def _product(result: Tensor, a: Tensor, *_: Any, **__: Any) -> int:
    return result.numel() * a.shape[-1]


_FORMULAS: dict[Callable[..., Any], Callable[..., int]] = {
    F.linear: _linear,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    **dict.fromkeys((F.scaled_dot_product_attention, dot_product_attention), _attention),
    sample_levels: _sampling,
    **dict.fromkeys((torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm), _product),
}


@dataclass(frozen=True)
class Latency:
    """Time of a forward pass, in milliseconds.

    Attributes:
        median: of all passes.
        p95: the 95th percentile.
    """

    median: float
    p95: float

    @classmethod
    def of(cls, times: Sequence[float]) -> "Latency":
        return cls(float(np.median(times)), float(np.percentile(times, 95)))


def measure_latency(
    family: Family,
    model: nn.Module,
    size: tuple[int, int],
    warmup: int = 3,
    runs: int = 20,
    amp: str | None = None,
    batch: int = 1,
) -> dict[str, Latency]:
    """Time of a forward pass, of the whole and of the measured parts on what they get in it.

    Args:
        family: of the model.
        model: a detector; it is timed on the device where it is.
        size: height and width of the image in pixels, as the model gets it.
        warmup: passes before the clock runs.
        runs: passes that are timed, at least 1.
        amp: see `autocast`.
        batch: images at once.
    """
    inputs = family.inputs(model, [_image(model, size)] * batch)
    given: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    parts = {label: model.get_submodule(name) for label, name in family.measured.items()}
    with evaluating(model), autocast(_device(model), amp):
        with ExitStack() as stack:
            for label, part in parts.items():

                def keep(module: nn.Module, args: Any, named: Any, label: str = label) -> None:
                    given[label] = args, named

                stack.callback(part.register_forward_pre_hook(keep, with_kwargs=True).remove)
            family.answer(model, inputs, last_only=True)
        calls: dict[str, Callable[[], Any]] = {WHOLE: lambda: family.answer(model, inputs, last_only=True)}
        for label, part in parts.items():
            args, named = given[label]
            calls[label] = partial(part, *args, **named)
        return {label: Latency.of(call_times(call, _device(model), warmup, runs)) for label, call in calls.items()}


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def call_times(call: Callable[[], Any], device: torch.device, warmup: int, runs: int) -> list[float]:
    """Milliseconds of each of `runs` calls; on a GPU until its work is done."""
    times = []
    for index in range(-warmup, runs):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= 0:
            times.append((time.perf_counter() - start) * 1000)
    return times
