"""Every implementation of deformable attention against the float64 twin, for ops/test.py, the tests and gpu_check."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from greedyprune.ops.built import find
from greedyprune.ops.twin import ms_deform_attn_twin, ms_deform_attn_twin_backward


class Case(NamedTuple):
    """Sizes of one call."""

    batch: int
    heads: int
    channels: int
    queries: int
    points: int
    shapes: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        levels = " ".join(f"{height}x{width}" for height, width in self.shapes)
        return f"B{self.batch} H{self.heads} C{self.channels} Q{self.queries} P{self.points} {levels}"


class Implementation(NamedTuple):
    """Kernels, as functions of tensors."""

    name: str
    device: str
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


class Inputs(NamedTuple):
    """What an implementation gets; `flat` is the shapes in one row, as the operator takes them."""

    value: Tensor
    shapes: tuple[tuple[int, int], ...]
    flat: list[int]
    locations: Tensor
    weights: Tensor
    grad: Tensor


# Few and many queries (kernels copy the values where these are read often), widths that fill vectors, leave a rest, and
# are too wide for one pass; one level, one point, levels of one token, more samples than a CUDA block holds at once.
CASES = (
    Case(2, 3, 32, 37, 4, ((5, 7), (3, 2), (1, 1))),
    Case(1, 2, 32, 150, 4, ((6, 9), (3, 5), (2, 3), (1, 2))),
    Case(1, 2, 19, 200, 3, ((6, 5),)),
    Case(2, 2, 27, 5, 4, ((20, 30), (3, 3))),
    Case(1, 1, 1, 14, 1, ((1, 1),)),
    Case(1, 2, 20, 33, 2, ((4, 6), (8, 3))),
    Case(1, 1, 70, 9, 5, ((9, 9), (4, 20))),
    Case(1, 2, 64, 70, 8, ((7, 7), (5, 3), (2, 2))),
    Case(1, 1, 200, 6, 2, ((3, 4), (2, 2))),
    Case(1, 1, 600, 12, 1, ((3, 3),)),
    Case(1, 3, 8, 300, 4, ((12, 10), (6, 5))),
    Case(1, 1, 6, 2, 1, ((2, 2),) * 70),
)

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# Largest error allowed, as a share of the largest number of the result: sums of float32, then one rounding.
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def implementations() -> list[Implementation]:
    """All that is built and runs here: the CPU kernels by instruction set, the CUDA kernels shipped and plain."""
    found: list[Implementation] = []
    variants: tuple[tuple[str, str, Callable[[Any], list[str]]], ...] = (
        ("cpu", "isa", lambda module: list(module.isas())),
        ("cuda", "variant", lambda module: list(module.VARIANTS)),
    )
    for device, argument, names in variants:
        module: Any = find(device).module
        for name in [] if module is None else names(module):
            chosen = {argument: name}
            forward, backward = partial(module.forward, **chosen), partial(module.backward, **chosen)
            found.append(Implementation(f"{device} {name}", device, forward, backward))
    return found


def make_inputs(case: Case, dtype: torch.dtype, device: str = "cpu", half: bool = False, seed: int = 0) -> Inputs:
    """Random inputs, many samples across the image's edge, some beyond it and a few far away.

    Samples keep a tenth of a pixel away from the lines where the gradient of a location jumps: there, rounding decides.

    Args:
        case: the sizes.
        dtype: of value.
        device: where the tensors are to be.
        half: locations and weights in value's dtype where that is half precision, not float32 as autocast leaves them.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    rows = sum(height * width for height, width in case.shapes)
    samples = (case.batch, case.queries, case.heads, len(case.shapes), case.points)
    extent = torch.tensor([(width, height) for height, width in case.shapes], dtype=torch.float64).view(-1, 1, 2)
    cell = (draw(*samples, 2) * (extent + 3)).floor() - 1 - (draw(*samples, 1) < 0.05) * 1000
    locations = (cell + 0.6 + 0.8 * draw(*samples, 2)) / extent
    value = draw(case.batch, rows, case.heads, case.channels) * 2 - 1
    weights = draw(*samples)
    grad = draw(case.batch, case.queries, case.heads * case.channels) * 2 - 1
    rest = dtype if half or dtype not in (torch.float16, torch.bfloat16) else torch.float32
    flat = [size for shape in case.shapes for size in shape]
    return Inputs(
        value.to(device, dtype), case.shapes, flat, locations.to(device, rest), weights.to(device, rest),
        grad.to(device, dtype),
    )  # fmt: skip


def compare(
    implementation: Implementation, case: Case, dtype: torch.dtype, half: bool = False
) -> Iterator[tuple[str, float, float]]:
    """What is compared, its error as a share of the largest number, and the limit: output, then three gradients."""
    given = make_inputs(case, dtype, implementation.device, half)
    value, locations, weights, grad = (
        tensor.cpu().double() for tensor in (given.value, given.locations, given.weights, given.grad)
    )
    expected = (
        ms_deform_attn_twin(value, case.shapes, locations, weights),
        *ms_deform_attn_twin_backward(grad, value, case.shapes, locations, weights),
    )
    arguments = (given.value, given.flat, given.locations, given.weights)
    results = (implementation.forward(*arguments), *implementation.backward(given.grad, *arguments))
    kinds = (dtype, dtype, given.locations.dtype, given.weights.dtype)
    names = ("output", "gradient of value", "gradient of locations", "gradient of weights")
    for name, result, reference, kind in zip(names, results, expected, kinds, strict=True):
        if result.dtype != kind or result.shape != reference.shape:
            yield f"{name}: {result.dtype} {list(result.shape)}", float("inf"), 0.0
            continue
        error = (result.cpu().double() - reference).abs().max() / reference.abs().max()
        yield name, error.item(), LIMITS[kind]
