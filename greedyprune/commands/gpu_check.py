"""`tools/gpu_check.py`: every check that needs a GPU, in one run on the machine that has it."""

import argparse
import copy
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from greedyprune.cli import DEMO_MODEL, Parser, add_device_arguments, open_device
from greedyprune.evaluation.evaluate import describe_device
from greedyprune.families import family_of
from greedyprune.models import Criterion, Denoising, build_model, load_model, pad_images
from greedyprune.ops.built import find
from greedyprune.ops.check import CASES, DTYPES, compare, implementations
from greedyprune.ops.measure import FLAT, TOKENS, Given, copy_rate, gathered, make_given
from greedyprune.ops.measure import timed as timed_kernel
from greedyprune.pruning.bench import Activations, Bench, Room, Targets
from greedyprune.pruning.cutter import Cutter
from greedyprune.pruning.kinds.channels import ChannelSite, channels_of
from greedyprune.pruning.mend import Mender
from greedyprune.pruning.scorers import given
from greedyprune.pruning.transplant import masked, transplant
from greedyprune.report.console import open_console

Row = tuple[str, str, bool]
CHECKS = ("agreement", "closed_form", "compile", "training", "latency", "kernels")
MEND_STEPS = 100


class Noise:
    """One batch of images, without objects.

    Args:
        images: normalised images `[3, h, w]`.
    """

    def __init__(self, images: Sequence[Tensor]) -> None:
        self.images, self.ids = images, range(len(images))

    def __len__(self) -> int:
        return len(self.images)

    def iterate(self, first: int = 0) -> Iterator[tuple[Sequence[Tensor], Targets]]:
        """The batch, once."""
        if first == 0:
            yield self.images, [{} for _ in self.images]


def outputs_of(model: nn.Module, images: Sequence[Tensor], amp: torch.dtype | None = None) -> Tensor:
    """Chances and boxes of the last layer, `[B, Q, C + 4]` on the CPU."""
    family, device = family_of(model), next(model.parameters()).device
    with torch.inference_mode(), torch.autocast(device.type, amp or torch.bfloat16, enabled=amp is not None):
        answer = family.answer(model, family.inputs(model, images), last_only=True)
    return torch.cat((answer.link.chances(answer.logits.float()), answer.boxes.float()), -1).cpu()


def worst(a: Tensor, b: Tensor) -> float:
    """The largest difference."""
    return (a - b).abs().max().item()


def channel_sites(model: nn.Module) -> list[ChannelSite]:
    """The sites whose channels may leave, in every part of a detector."""
    return [site for site in family_of(model).sites(model) if isinstance(site, ChannelSite)]


def random_kept(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Some channels of every site, as many in each of its groups."""
    rng, kept = random.Random(0), {}
    for site in channel_sites(model):
        units = site.group_width // site.unit
        width = rng.randint(1, units)
        chosen = [[group * units + unit for unit in rng.sample(range(units), width)] for group in range(site.groups)]
        kept[site.name] = channels_of(site, torch.tensor(chosen))
    return kept


def agreement(model: nn.Module, device: torch.device, images: Sequence[Tensor]) -> list[Row]:
    """The GPU against the CPU, slim against masked, mixed precision against plain."""
    family, there = family_of(model), copy.deepcopy(model).to(device)
    reference = outputs_of(model, images)
    plain = outputs_of(there, images)
    kept = random_kept(model)
    slim, off = transplant(family, there, kept), masked(family, there, kept)
    square = images[-1:]
    height, width = square[0].shape[1:]
    fixed = family.deployed(there, (height, width))
    rows = [
        ("float32 on the device = CPU", *_within(worst(reference, plain), 2e-3)),
        ("deployed = plain", *_within(worst(outputs_of(family.deployed(there), images), plain), 2e-3)),
        ("deployed for one size = plain", *_within(worst(outputs_of(fixed, square), outputs_of(there, square)), 2e-3)),
        ("slim = masked", *_within(worst(outputs_of(slim, images), outputs_of(off, images)), 1e-4)),
        ("bf16 = float32", *_within(worst(outputs_of(there, images, torch.bfloat16), plain), 0.1)),
    ]
    if device.type == "cuda":
        rows.append(("fp16 = float32", *_within(worst(outputs_of(there, images, torch.float16), plain), 0.05)))
    return rows


def closed_form(model: nn.Module, device: torch.device, images: Sequence[Tensor], steps: int = MEND_STEPS) -> list[Row]:
    """Statistics, a cut to half the width and mending, all on the device: mended is nearer to dense than cut."""
    family, dense = family_of(model), copy.deepcopy(model).to(device)
    sites = [site for site in channel_sites(dense) if site.part in family.searched]
    batch = Noise([image.to(device) for image in images])
    bench = Bench(family, dense, sites, batch)
    seen = Activations(bench, batch, Room(sys.maxsize), last_only=False)
    half = {site.name: max(site.least, site.full // 2 // site.grain * site.grain) for site in sites}
    change = Cutter(given(seen, sites), "basis").change(half)
    slim = family.slim(dense, change)
    answers = outputs_of(dense, images)
    before = worst(outputs_of(slim, images), answers)
    started = time.perf_counter()
    Mender(family, dense, slim, change, steps).on_cached(seen)
    _wait(device)
    seconds = time.perf_counter() - started
    after = worst(outputs_of(slim, images), answers)
    return [("cut to half, mended", f"{before:.1e} to {after:.1e}, {seconds:.1f} s for {steps} steps", after < before)]


def compilation(model: nn.Module, device: torch.device, images: Sequence[Tensor]) -> list[Row]:
    """torch.compile against plain."""
    there = copy.deepcopy(model).to(device)
    compiled = copy.deepcopy(there)
    compiled.compile()
    difference = worst(outputs_of(compiled, images), outputs_of(there, images))
    return [("compiled = plain", *_within(difference, 1e-3))]


def _within(value: float, limit: float) -> tuple[str, bool]:
    return f"{value:.1e} (limit {limit:.0e})", value <= limit


def training(device: torch.device, amp: torch.dtype | None) -> list[Row]:
    """Steps of DN-DETR-R50: the loss stays finite; images per second."""
    torch.manual_seed(0)
    model = build_model("dn_detr", num_classes=91).to(device).train()
    criterion = Criterion(91)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    batch = pad_images([torch.randn(3, 480, 640) for _ in range(2)]).to(device)
    labels, boxes = torch.randint(91, (6,), device=device), torch.rand(6, 4, device=device) * 0.3 + 0.2
    targets = [{"labels": labels, "boxes": boxes}] * 2

    def step() -> Tensor:
        with torch.autocast(device.type, amp or torch.bfloat16, enabled=amp is not None):
            outputs = model(batch, targets, Denoising())
        loss = criterion.total(criterion(outputs, targets))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    seconds = timed(step, device, 3)
    return [(f"train R50, {amp or torch.float32}", f"{2 / seconds:.1f} images/s", bool(torch.isfinite(step())))]


def latency(device: torch.device) -> list[Row]:
    """Forward passes of DN-DETR-R50 at 800 x 1066, dense."""
    model = build_model("dn_detr", num_classes=91).to(device).eval()
    image = torch.randn(1, 3, 800, 1066, device=device)
    rows = []
    for name, dtype in (("float32", None), ("bf16", torch.bfloat16)):
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=dtype is not None):
            seconds = timed(lambda: model(image), device, 10 if device.type == "cuda" else 1)
        rows.append((f"forward R50, {name}", f"{seconds * 1e3:.1f} ms an image", True))
    return rows


def kernels(device: torch.device) -> list[Row]:
    """Deformable attention: the CUDA kernels against the float64 twin, the plain ones, the card's rate."""
    module, reason = find("cuda")
    if module is None:
        return [("deformable attention kernels", f"none: {reason}", False)]
    rows = []
    for implementation in implementations():
        if implementation.device == "cuda":
            for dtype in DTYPES:
                checks = [
                    (error / limit, f"{name}, {case}")
                    for case in CASES
                    if module.takes(len(case.shapes))
                    for half in {False, dtype.itemsize == 2}
                    for name, error, limit in compare(implementation, case, dtype, half)
                ]
                share, where = max(checks)
                rows.append((f"{implementation.name}, {dtype}", f"{share:.2f} of the limit: {where}", share <= 1))
    rate = copy_rate(device, 2**28)
    rows.append(("copying, read and written", f"{rate / 1e9:.0f} GB/s", True))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for channels in (32, 19):
            rows += speed(module, make_given(2, channels, TOKENS, device, dtype), rate)
    return rows


def speed(module: Any, sampled: Given, rate: float) -> list[Row]:
    """Encoder shape, batch 2: at least 2.5 times the plain kernel forward and 2 times backward. Then every other way to
    share out the channels, to tune by."""
    arguments, device = (sampled.value, FLAT, sampled.locations, sampled.weights), sampled.value.device
    calls = {
        "forward": (partial(module.forward, *arguments), gathered(sampled)[0], 2.5),
        "backward": (partial(module.backward, sampled.grad, *arguments), gathered(sampled)[1], 2.0),
    }
    rows = []
    for name, (call, amount, demand) in calls.items():
        plain, shipped = timed_kernel(partial(call, variant="plain"), device, 5), timed_kernel(call, device, 5)
        rows.append(
            (
                f"{name}, {sampled.value.dtype}, {sampled.value.shape[3]} channels",
                f"{shipped * 1e3:.3f} ms, plain {plain * 1e3:.3f} ms: {plain / shipped:.1f} times; "
                f"{amount / shipped / 1e9:.0f} GB/s, {amount / shipped / rate:.2f} of copying",
                plain / shipped >= demand,
            )
        )
        others = [
            f"{vector}/{group} {timed_kernel(partial(call, vector=vector, group=group), device, 3) * 1e3:.3f}"
            for vector in (1, 2, 16 // sampled.value.element_size())
            for group in (4, 8, 16, 32)
            if sampled.value.shape[3] % vector == 0
            and vector * group * 4 >= sampled.value.shape[3]
            and vector + group > 5
        ]
        rows.append(("  channels a load / threads: ms", ", ".join(others), True))
    return rows


def timed(call: Callable[[], object], device: torch.device, runs: int) -> float:
    """Seconds of a call, after one warm-up."""
    call()
    _wait(device)
    started = time.perf_counter()
    for _ in range(runs):
        call()
    _wait(device)
    return (time.perf_counter() - started) / runs


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def kept_going(title: str, check: Callable[[], list[Row]]) -> list[Row]:
    """A check's rows; one that breaks is a row that does not hold, and the others run on."""
    try:
        return check()
    except Exception as error:
        return [(title, " ".join(f"{type(error).__name__}: {error}".split())[:200], False)]


def parser() -> argparse.ArgumentParser:
    """The options of `tools/gpu_check.py`."""
    parser = Parser("Every check that needs a GPU, in one run. Exit code 1 if one fails.")
    parser.add_argument("--checks", nargs="+", choices=CHECKS, default=CHECKS, help="which (default: all)")
    add_device_arguments(parser, amp=False)
    parser.set_defaults(device="cuda:0")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks and print the table.

    Returns:
        The exit code: 1 where a check does not hold.

    Raises:
        UserError: there is no such device; `--device cpu` tries the checks that run there.
    """
    args = parser().parse_args(argv)
    device = open_device(args)
    torch.manual_seed(0)
    images = [torch.randn(3, 160, 128), torch.randn(3, 128, 160), torch.randn(3, 160, 160)]
    precisions = [None, torch.bfloat16, *([torch.float16] if device.type == "cuda" else [])]
    model = load_model(DEMO_MODEL)
    checks: dict[str, list[Callable[[], list[Row]]]] = {
        "agreement": [lambda: agreement(model, device, images)],
        "closed_form": [lambda: closed_form(model, device, images)],
        "compile": [lambda: compilation(model, device, images)],
        "training": [partial(training, device, amp) for amp in precisions],
        "latency": [lambda: latency(device)],
        "kernels": [lambda: kernels(device)] if device.type == "cuda" else [],
    }
    rows = [row for name in args.checks for check in checks[name] for row in kept_going(name, check)]
    table = Table(title=f"{describe_device(device)}, PyTorch {torch.__version__}", title_justify="left")
    for column in ("check", "measured", "holds"):
        table.add_column(column, overflow="fold")
    for title, measured, holds in rows:
        table.add_row(title, measured, str(holds))
    open_console().print(table)
    return 0 if all(holds for _, _, holds in rows) else 1
