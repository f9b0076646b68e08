"""Real shapes, times and rates of deformable attention: for ops/bench.py and tools/gpu_check.py."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# An image of 800 x 1066 at strides 8 to 64, as Deformable DETR sees it (Zhu et al. 2021, section 5.1).
SHAPES = ((100, 134), (50, 67), (25, 34), (13, 17))
FLAT = [size for shape in SHAPES for size in shape]
TOKENS = sum(height * width for height, width in SHAPES)
HEADS, POINTS, DECODER_QUERIES = 8, 4, 300


class Given(NamedTuple):
    """Inputs of one call, and the gradient of its output."""

    value: Tensor
    locations: Tensor
    weights: Tensor
    grad: Tensor


def make_given(
    batch: int, channels: int, queries: int, device: torch.device, dtype: torch.dtype, near: bool = False
) -> Given:
    """Random inputs at the levels of `SHAPES`.

    Args:
        batch: images.
        channels: of a head.
        queries: `TOKENS` in an encoder, `DECODER_QUERIES` in a decoder.
        device: where the tensors are.
        dtype: of value and gradient; locations and weights are float32.
        near: samples lie within 4 pixels of the query's own place, as in a trained encoder; else anywhere, where no
            cache helps.
    """
    value = torch.randn(batch, TOKENS, HEADS, channels, device=device, dtype=dtype)
    samples = (batch, queries, HEADS, len(SHAPES), POINTS)
    locations = torch.rand(*samples, 2, device=device)
    if near:
        extent = torch.tensor([(width, height) for height, width in SHAPES], device=device).view(-1, 1, 2)
        own = _centres().to(device)[:: max(1, TOKENS // queries)][:queries].view(1, -1, 1, 1, 1, 2)
        locations = own + (locations - 0.5) * 8 / extent
    weights = torch.rand(samples, device=device).flatten(-2).softmax(-1).view(samples)
    grad = torch.randn(batch, queries, HEADS * channels, device=device, dtype=dtype)
    return Given(value, locations, weights, grad)


def _centres() -> Tensor:
    """x and y of every token's centre, `[TOKENS, 2]`, as fractions."""
    levels = []
    for height, width in SHAPES:
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        levels.append(torch.stack((x, y), -1).flatten(0, 1))
    return torch.cat(levels)


def in_turn(calls: Sequence[Callable[[], object]], device: torch.device, runs: int) -> list[list[float]]:
    """Seconds of each call in every round, `[calls, runs]`, after one warm-up.

    In a round the calls take turns: whatever else the machine does hits all alike, and ratios within a round can be
    trusted. A short call finds the caches as it left them, for it runs several times and its mean counts; so does every
    call on a GPU, where the time to launch one hides behind the one before.
    """
    times: list[list[float]] = [[] for _ in calls]
    warm = [_seconds(call, device, 1) for call in calls]
    repeats = [10 if device.type == "cuda" else int(min(10, max(1, 0.03 / seconds))) for seconds in warm]
    for _ in range(runs):
        for call, repeat, found in zip(calls, repeats, times, strict=True):
            if repeat > 1:
                call()
            found.append(_seconds(call, device, repeat))
    return times


def timed(call: Callable[[], object], device: torch.device, runs: int) -> float:
    """Seconds of a call: the median of `in_turn`'s runs."""
    return statistics.median(in_turn([call], device, runs)[0])


def _seconds(call: Callable[[], object], device: torch.device, repeat: int) -> float:
    """Mean seconds of `repeat` calls in a row."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / repeat


def gathered(given: Given) -> tuple[int, int]:
    """Bytes that the kernels move at the samples' corners: forward they read them; backward they read them, and read
    and write as many float32 numbers of value's gradient."""
    numbers = given.weights.numel() * 4 * given.value.shape[3]
    size = given.value.element_size()
    return numbers * size, numbers * (size + 2 * max(4, size))


def copy_rate(device: torch.device, size: int) -> float:
    """Bytes per second, read and written, of copying `size` bytes."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    repeat = max(1, 2**27 // size)
    return 2 * size * repeat / timed(lambda: [target.copy_(source) for _ in range(repeat)], device, 5)
