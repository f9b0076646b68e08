"""Times deformable attention at a detector's real shapes: python ops/bench.py [--device cuda] [--dtype bfloat16]

Shapes: an image of 800 x 1066, levels of strides 8 to 64, 8 heads, 4 points; every token a query in the encoder, 300
queries in the decoder. Baseline: grid_sample per level, what everyone falls back to.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from greedyprune.ops import ms_deform_attn_twin
from greedyprune.ops.built import find
from greedyprune.ops.operator import OPERATOR

SHAPES = ((100, 134), (50, 67), (25, 34), (13, 17))
TOKENS = sum(height * width for height, width in SHAPES)
FLAT = [size for shape in SHAPES for size in shape]
HEADS, POINTS, DECODER_QUERIES = 8, 4, 300

Times = dict[str, tuple[float, float]]


def baseline(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """One grid_sample per level, then one weighted sum over all samples."""
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    kind = torch.promote_types(value.dtype, torch.float32) if value.device.type == "cpu" else value.dtype
    grids, samples = (2 * locations - 1).to(kind), []
    for level, part in enumerate(value.to(kind).split([height * width for height, width in shapes], 1)):
        plane = part.flatten(2).transpose(1, 2).reshape(batch * heads, channels, *shapes[level])
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(plane, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    weight = weights.to(kind).transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    summed = (torch.stack(samples, dim=-2).flatten(-2) * weight).sum(-1)
    return summed.view(batch, heads * channels, queries).transpose(1, 2).contiguous().to(value.dtype)


def make(
    batch: int, channels: int, queries: int, near: bool, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """value, locations, weights and the output's gradient. near: samples within a few pixels of the query's own place,
    as in a trained encoder; else anywhere, which no cache helps."""
    value = torch.randn(batch, TOKENS, HEADS, channels, device=device, dtype=dtype)
    samples = (batch, queries, HEADS, len(SHAPES), POINTS)
    locations = torch.rand(*samples, 2, device=device)
    if near:
        centres = [
            torch.stack(torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij"), -1)
            for h, w in SHAPES
        ]
        own = torch.cat([centre.flip(-1).flatten(0, 1) for centre in centres]).to(device)  # [tokens, 2] as x, y
        own = own[:: max(1, TOKENS // queries)][:queries].view(1, queries, 1, 1, 1, 2)
        pixels = torch.tensor([(w, h) for h, w in SHAPES], device=device).view(-1, 1, 2)
        locations = own + (locations - 0.5) * 8 / pixels
    weights = torch.rand(samples, device=device).flatten(-2).softmax(-1).view(samples)
    grad = torch.randn(batch, queries, HEADS * channels, device=device, dtype=dtype)
    return value, locations, weights, grad


def timed(call: Callable[[], object], device: torch.device, runs: int) -> float:
    """Seconds of a call, the median of several after one warm-up."""
    times = []
    for index in range(-1, runs):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= 0:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def time_function(call: Callable[..., Tensor], given: tuple[Tensor, ...], runs: int) -> tuple[float, float]:
    """Seconds forward (without a graph) and backward (the gradients of all three inputs)."""
    *inputs, grad = given
    device = grad.device
    with torch.no_grad():
        forward = timed(lambda: call(*inputs), device, runs)
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = call(*leaves)
    return forward, timed(lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True), device, runs)


def measure(given: tuple[Tensor, ...], runs: int) -> Times:
    """Seconds forward and backward of everything that runs on the inputs' device."""
    device = given[0].device.type
    times = {
        "grid_sample": time_function(lambda v, places, w: baseline(v, SHAPES, places, w), given, runs),
        "twin": time_function(lambda v, places, w: ms_deform_attn_twin(v, SHAPES, places, w), given, runs),
    }
    module: Any = find(device).module
    if module is None:
        return times
    if device == "cuda":
        value, locations, weights, grad = given
        arguments = (value, FLAT, locations, weights)
        times["plain kernel"] = (
            timed(lambda: module.forward(*arguments, variant="plain"), value.device, runs),
            timed(lambda: module.backward(grad, *arguments, variant="plain"), value.device, runs),
        )
    times["compiled"] = time_function(lambda v, places, w: OPERATOR(v, FLAT, places, w), given, runs)
    return times


def gathered(given: tuple[Tensor, ...]) -> tuple[int, int]:
    """Bytes that the kernels read at the samples' corners, forward; and backward, where as many float32 numbers are
    read and written again."""
    value, locations = given[0], given[1]
    numbers = locations.numel() // 2 * 4 * value.shape[3]
    wide = max(4, value.element_size())
    return numbers * value.element_size(), numbers * (value.element_size() + 2 * wide)


def copy_rate(device: torch.device, size: int) -> float:
    """Bytes per second, read and written, of copying `size` bytes."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    repeat = max(1, 2**27 // size)
    return 2 * size * repeat / timed(lambda: [target.copy_(source) for _ in range(repeat)], device, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 19], help="of a head")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--near", action="store_true", help="samples near their query, as in a trained encoder")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    title = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {args.threads} thread(s)"
    table = Table(title=f"{title}, {args.dtype}, {find(device.type).reason}", title_justify="left")
    for column in ("shape", "B", "C", "implementation", "forward ms", "times", "GB/s", "backward ms", "times", "GB/s"):
        table.add_column(column, justify="left" if column in ("shape", "implementation") else "right")
    for name, queries in (("encoder", TOKENS), ("decoder", DECODER_QUERIES)):
        for batch in args.batch:
            for channels in args.channels:
                given = make(batch, channels, queries, args.near, device, dtype)
                times, amounts = measure(given, args.runs), gathered(given)
                for what, seconds in times.items():
                    cells = [
                        (f"{s * 1e3:.2f}", f"{b / s:.1f}", f"{amount / s / 1e9:.1f}")
                        for s, b, amount in zip(seconds, times["grid_sample"], amounts, strict=True)
                    ]
                    table.add_row(name, str(batch), str(channels), what, *cells[0], *cells[1])
                table.add_section()
    console = Console(width=120)
    console.print(table)
    sizes = (2**20, 2**23, 2**28) if device.type == "cpu" else (2**28,)
    rates = ", ".join(f"{copy_rate(device, size) / 1e9:.0f} GB/s of {size / 2**20:.0f} MiB" for size in sizes)
    console.print(f"copying, read and written: {rates}")


if __name__ == "__main__":
    main()
