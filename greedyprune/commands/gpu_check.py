"""Every check that needs a GPU, in one run: prints a table, exit code 1 if a check fails.

Run it on the machine with the GPU, in the repository: python tools/gpu_check.py [--device cuda:0]
"""

import argparse
import copy
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from greedyprune.cli import DEMO_MODEL, Parser
from greedyprune.errors import UserError
from greedyprune.models import Criterion, Denoising, Detector, build_model, load_model, pad_images
from greedyprune.models.deploy import deployed
from greedyprune.ops.built import find
from greedyprune.ops.check import CASES, DTYPES, compare, implementations
from greedyprune.ops.measure import FLAT, TOKENS, copy_rate, gathered, make_given
from greedyprune.ops.measure import Given as Sampled
from greedyprune.ops.measure import timed as timed_kernel
from greedyprune.pruning.cut import cut_model
from greedyprune.pruning.mend import mend
from greedyprune.pruning.prefix import begin
from greedyprune.pruning.scorers import Given, make_cuts
from greedyprune.pruning.sites import list_sites
from greedyprune.pruning.transplant import masked, transplant
from greedyprune.report import open_console
from greedyprune.text import plain_text

Row = tuple[str, str, bool]


def outputs_of(model: Detector, images: list[Tensor], amp: torch.dtype | None = None) -> Tensor:
    """Logits and boxes of the last layer, `[B, Q, C + 4]` on the CPU."""
    device = next(model.parameters()).device
    with torch.inference_mode(), torch.autocast(device.type, amp or torch.bfloat16, enabled=amp is not None):
        outputs = model([image.to(device) for image in images])
    return torch.cat((outputs.logits.float().sigmoid(), outputs.boxes.float()), -1).cpu()


def worst(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def random_kept(model: Detector) -> dict[str, tuple[int, ...]]:
    rng, kept = random.Random(0), {}
    for site in list_sites(model):
        width = rng.randint(1, site.group_width)
        kept[site.name] = tuple(
            sorted(
                g * site.group_width + c for g in range(site.groups) for c in rng.sample(range(site.group_width), width)
            )
        )
    return kept


def agreement(model: Detector, device: torch.device, images: list[Tensor]) -> list[Row]:
    """The GPU against the CPU, slim against masked, mixed precision against plain."""
    there = copy.deepcopy(model).to(device)
    reference = outputs_of(model, images)
    plain = outputs_of(there, images)
    kept = random_kept(model)
    slim, off = transplant(there, kept), masked(there, kept)
    rows = [
        ("float32 on the device = CPU", *_within(worst(reference, plain), 2e-3)),
        ("deployed = plain", *_within(worst(outputs_of(deployed(there), images), plain), 2e-3)),
        ("slim = masked", *_within(worst(outputs_of(slim, images), outputs_of(off, images)), 1e-4)),
        ("bf16 = float32", *_within(worst(outputs_of(there, images, torch.bfloat16), plain), 0.1)),
    ]
    if device.type == "cuda":
        rows.append(("fp16 = float32", *_within(worst(outputs_of(there, images, torch.float16), plain), 0.05)))
    return rows


def closed_form(model: Detector, device: torch.device, images: list[Tensor]) -> list[Row]:
    """Statistics, a cut to half the width and mending, all on the device: mended is nearer to dense than cut."""
    dense = copy.deepcopy(model).to(device)
    given = [image.to(device) for image in images]
    with torch.no_grad():
        prefixes = [begin(dense.features(given))]
    sites = list_sites(dense)
    cuts = make_cuts("basis", Given(dense, sites, lambda: [(prefix, []) for prefix in prefixes]))
    half = {site.name: max(site.grain, site.width // 2 // site.grain * site.grain) for site in sites}
    slim = cut_model(dense, cuts, half)
    answers = outputs_of(dense, images)
    before = worst(outputs_of(slim, images), answers)
    seconds = timed(lambda: mend(dense, slim, prefixes, 100), device, 1)
    after = worst(outputs_of(slim, images), answers)
    return [("cut to half, mended", f"{before:.1e} to {after:.1e}, {seconds * 10:.0f} ms a step", after < before)]


def compilation(model: Detector, device: torch.device, images: list[Tensor]) -> list[Row]:
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


def speed(module: Any, given: Sampled, rate: float) -> list[Row]:
    """Encoder shape, batch 2: at least 2.5 times the plain kernel forward and 2 times backward. Then every other way to
    share out the channels, to tune by."""
    arguments, device = (given.value, FLAT, given.locations, given.weights), given.value.device
    calls = {
        "forward": (partial(module.forward, *arguments), gathered(given)[0], 2.5),
        "backward": (partial(module.backward, given.grad, *arguments), gathered(given)[1], 2.0),
    }
    rows = []
    for name, (call, amount, demand) in calls.items():
        plain, shipped = timed_kernel(partial(call, variant="plain"), device, 5), timed_kernel(call, device, 5)
        rows.append(
            (
                f"{name}, {given.value.dtype}, {given.value.shape[3]} channels",
                f"{shipped * 1e3:.3f} ms, plain {plain * 1e3:.3f} ms: {plain / shipped:.1f} times; "
                f"{amount / shipped / 1e9:.0f} GB/s, {amount / shipped / rate:.2f} of copying",
                plain / shipped >= demand,
            )
        )
        others = [
            f"{vector}/{group} {timed_kernel(partial(call, vector=vector, group=group), device, 3) * 1e3:.3f}"
            for vector in (1, 2, 16 // given.value.element_size())
            for group in (4, 8, 16, 32)
            if given.value.shape[3] % vector == 0 and vector * group * 4 >= given.value.shape[3] and vector + group > 5
        ]
        rows.append(("  channels a load / threads: ms", ", ".join(others), True))
    return rows


def timed(call: Callable[[], object], device: torch.device, runs: int) -> float:
    """Seconds of a call, after one warm-up."""
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(runs):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / runs


def kept_going(title: str, check: Callable[[], list[Row]]) -> list[Row]:
    """A check's rows; one that breaks is a row that does not hold, and the others run on."""
    try:
        return check()
    except Exception as error:
        return [(title, " ".join(f"{type(error).__name__}: {error}".split())[:200], False)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run every check and print the table.

    Raises:
        UserError: there is no GPU.
    """
    parser: argparse.ArgumentParser = Parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", type=plain_text, default="cuda:0", metavar="NAME", help="what to check")
    device = torch.device(parser.parse_args(argv).device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch sees no GPU here; run this where one is, or give --device cpu to try the script")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    torch.manual_seed(0)
    images = [torch.randn(3, 160, 128), torch.randn(3, 128, 160), torch.randn(3, 160, 160)]
    precisions = [None, torch.bfloat16, *([torch.float16] if device.type == "cuda" else [])]
    model = load_model(DEMO_MODEL)
    checks: list[tuple[str, Callable[[], list[Row]]]] = [
        ("agreement", lambda: agreement(model, device, images)),
        ("closed form", lambda: closed_form(model, device, images)),
        ("torch.compile", lambda: compilation(model, device, images)),
        *((f"training, {amp or torch.float32}", partial(training, device, amp)) for amp in precisions),
        ("latency", lambda: latency(device)),
    ]
    if device.type == "cuda":
        checks.append(("kernels", lambda: kernels(device)))
    rows = [row for title, check in checks for row in kept_going(title, check)]
    table = Table(title=f"{name}, PyTorch {torch.__version__}", title_justify="left")
    for column in ("check", "measured", "holds"):
        table.add_column(column)
    for check, measured, holds in rows:
        table.add_row(check, measured, str(holds))
    open_console().print(table)
    return 0 if all(holds for _, _, holds in rows) else 1
