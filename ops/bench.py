"""Times deformable attention at a detector's real shapes: python ops/bench.py [--device cuda] [--dtype bfloat16]

Shapes: an image of 800 x 1066, levels of strides 8 to 64, 8 heads, 4 points; every token a query in the encoder, 300
queries in the decoder. Baseline: grid_sample per level, what everyone falls back to.
"""

import argparse
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from greedyprune.ops import ms_deform_attn_twin
from greedyprune.ops.built import find
from greedyprune.ops.measure import (
    DECODER_QUERIES,
    FLAT,
    SHAPES,
    TOKENS,
    Given,
    copy_rate,
    gathered,
    in_turn,
    make_given,
)
from greedyprune.ops.operator import OPERATOR

Pass = Callable[[], object]


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


def passes(call: Callable[..., Tensor], given: Given) -> tuple[Pass, Pass]:
    """Forward (without a graph) and backward (the gradients of all three inputs) of a function, to be timed."""
    *inputs, grad = given
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = call(*leaves)
    return torch.no_grad()(lambda: call(*inputs)), lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)


def measure(given: Given, runs: int) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds forward and backward, of every round, of everything that runs on the inputs' device."""
    device = given.value.device
    calls = {
        "grid_sample": passes(lambda v, places, w: baseline(v, SHAPES, places, w), given),
        "twin": passes(lambda v, places, w: ms_deform_attn_twin(v, SHAPES, places, w), given),
    }
    module: Any = find(device.type).module
    if module is not None and device.type == "cuda":
        arguments = (given.value, FLAT, given.locations, given.weights)
        calls["plain kernel"] = (
            lambda: module.forward(*arguments, variant="plain"),
            lambda: module.backward(given.grad, *arguments, variant="plain"),
        )
    if module is not None:
        calls["compiled"] = passes(lambda v, places, w: OPERATOR(v, FLAT, places, w), given)
    forward, backward = (in_turn(kind, device, runs) for kind in zip(*calls.values(), strict=True))
    return dict(zip(calls, zip(forward, backward, strict=True), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--shape", nargs="+", default=["encoder", "decoder"], choices=("encoder", "decoder"))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 19], help="of a head")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--near", action="store_true", help="samples near their query, as in a trained encoder")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    title = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {args.threads} thread(s)"
    table = Table(title=f"{title}, {args.dtype}, compiled: {find(device.type).reason}", title_justify="left")
    for column in ("shape", "B", "C", "implementation", "forward ms", "times", "GB/s", "backward ms", "times", "GB/s"):
        table.add_column(column, justify="left" if column in ("shape", "implementation") else "right")
    for name in args.shape:
        queries = TOKENS if name == "encoder" else DECODER_QUERIES
        for batch in args.batch:
            for channels in args.channels:
                given = make_given(batch, channels, queries, device, dtype, args.near)
                times, amounts = measure(given, args.runs), gathered(given)
                for what, seconds in times.items():
                    cells = []
                    for own, others, amount in zip(seconds, times["grid_sample"], amounts, strict=True):
                        ratio = median(other / mine for other, mine in zip(others, own, strict=True))
                        cells.append((f"{median(own) * 1e3:.2f}", f"{ratio:.1f}", f"{amount / median(own) / 1e9:.1f}"))
                    table.add_row(name, str(batch), str(channels), what, *cells[0], *cells[1])
                table.add_section()
    console = Console(width=120)
    console.print(table)
    console.print("times: as fast as grid_sample, the median of rounds in which all take turns")
    console.print("GB/s: of corners read (and, backward, of gradients read and written)")
    sizes = (2**20, 2**23, 2**28) if device.type == "cpu" else (2**28,)
    rates = ", ".join(f"{copy_rate(device, size) / 1e9:.0f} GB/s of {size / 2**20:.0f} MiB" for size in sizes)
    console.print(f"copying, read and written: {rates}")


if __name__ == "__main__":
    main()
