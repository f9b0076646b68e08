"""What a detector costs: parameters, multiply-adds, and time, of the whole and of its Transformer alone."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from greedyprune.evaluation.predict import autocast, evaluating
from greedyprune.models import Detector
from greedyprune.models.deformable_attention import sample_levels
from greedyprune.models.layers import dot_product_attention


def count_parameters(model: Detector) -> tuple[int, int]:
    """Parameters of the model and of `model.transformer`; a shared one counts once.

    The Transformer is counted as the published module is: with the box head that its decoder shares.
    """
    return _size(model), _size(model.transformer)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(model: Detector, size: tuple[int, int]) -> tuple[int, int]:
    """Multiply-adds of one forward pass over one image, of the model and of `model.transformer`.

    Counted are linear layers, convolutions, the two products of attention (q k^T and attention times v), and the
    sampling of deformable attention (for every channel of every point, 4 to interpolate between its neighbours and 1 to
    weigh it), from the shapes of a real forward pass; biases, norms, activations and softmax are not.

    Args:
        model: a detector.
        size: the image's height and width in pixels, as the model gets it.
    """
    counter = _MultiplyAdds()
    transformer = model.transformer
    inside = [0, 0]
    hooks = (
        transformer.register_forward_pre_hook(lambda *_: inside.__setitem__(0, counter.total)),
        transformer.register_forward_hook(lambda *_: inside.__setitem__(1, counter.total)),
    )
    try:
        with evaluating(model), counter:
            model(_image(model, size))
    finally:
        for hook in hooks:
            hook.remove()
    return counter.total, inside[1] - inside[0]


def _image(model: Detector, size: tuple[int, int]) -> Tensor:
    """A batch of one blank image `[1, 3, h, w]` where the model is."""
    parameter = next(model.parameters())
    return torch.zeros(1, 3, *size, device=parameter.device, dtype=parameter.dtype)


class _MultiplyAdds(TorchFunctionMode):
    """Adds up multiply-adds of the calls made under it.

    It listens to the functions that are called, not to the kernels that run: which kernel attention takes, and with
    it what a counter of kernels sees, depends on the device, the padding and the head dims.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := _FORMULAS.get(func):
            self.total += count(result, *args, **(kwargs or {}))
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


def measure_latency(
    model: Detector, size: tuple[int, int], warmup: int = 3, runs: int = 20, amp: str | None = None
) -> dict[str, float]:
    """Time of a forward pass over one image (batch 1), in milliseconds.

    Args:
        model: a detector; it is timed on the device where it is.
        size: the image's height and width in pixels, as the model gets it.
        warmup: passes before the clock runs.
        runs: passes that are timed, at least 1.
        amp: see `autocast`.

    Returns:
        `median` and `p95` (95th percentile) of the whole model, `transformer_median` and `transformer_p95` of
        `model.transformer` alone on what it gets of that image.
    """
    transformer = model.transformer
    image = _image(model, size)
    given: list[tuple[Any, ...]] = []
    hook = transformer.register_forward_pre_hook(lambda _, args: given.append(args))
    with evaluating(model), autocast(image.device, amp):
        try:
            model(image)
        finally:
            hook.remove()
        whole = call_times(lambda: model(image), image.device, warmup, runs)
        part = call_times(lambda: transformer(*given[0]), image.device, warmup, runs)
    return {
        "median": float(np.median(whole)),
        "p95": float(np.percentile(whole, 95)),
        "transformer_median": float(np.median(part)),
        "transformer_p95": float(np.percentile(part, 95)),
    }


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
