"""Every check that needs a GPU, in one run: prints a table, exit code 1 if a check fails.

Run it on the machine with the GPU, in the repository: python tools/gpu_check.py [--device cuda:0]
"""

import argparse
import copy
import random
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from greedyprune.cli import DEMO_MODEL, Parser, run
from greedyprune.models import Criterion, Denoising, Detector, build_model, load_model, pad_images
from greedyprune.pruning.sites import list_sites
from greedyprune.pruning.transplant import masked, transplant

Row = tuple[str, str, bool]


def outputs_of(model: Detector, images: list[Tensor], amp: torch.dtype | None = None) -> Tensor:
    """Logits and boxes of the last layer, `[B, Q, C + 4]` on the CPU."""
    device = next(model.parameters()).device
    with torch.inference_mode(), torch.autocast(device.type, amp or torch.bfloat16, enabled=amp is not None):
        outputs = model([image.to(device) for image in images])
    return torch.cat((outputs["pred_logits"].float().sigmoid(), outputs["pred_boxes"].float()), -1).cpu()


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
    """The GPU against the CPU, slim against masked, mixed precision and compiled against plain."""
    there = copy.deepcopy(model).to(device)
    reference = outputs_of(model, images)
    plain = outputs_of(there, images)
    kept = random_kept(model)
    slim, off = transplant(there, kept), masked(there, kept)
    rows = [
        ("float32 on the device = CPU", *_within(worst(reference, plain), 2e-3)),
        ("slim = masked", *_within(worst(outputs_of(slim, images), outputs_of(off, images)), 1e-4)),
        ("bf16 = float32", *_within(worst(outputs_of(there, images, torch.bfloat16), plain), 0.1)),
    ]
    if device.type == "cuda":
        rows.append(("fp16 = float32", *_within(worst(outputs_of(there, images, torch.float16), plain), 0.05)))
    compiled = copy.deepcopy(there)
    compiled.compile()
    rows.append(("compiled = plain", *_within(worst(outputs_of(compiled, images), plain), 1e-3)))
    return rows


def _within(value: float, limit: float) -> tuple[str, bool]:
    return f"{value:.1e} (limit {limit:.0e})", value <= limit


def training(device: torch.device, amp: torch.dtype | None) -> Row:
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
    return f"train R50, {amp or torch.float32}", f"{2 / seconds:.1f} images/s", bool(torch.isfinite(step()))


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


def main() -> int:
    parser: argparse.ArgumentParser = Parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu", help="what to check")
    device = torch.device(parser.parse_args().device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    torch.manual_seed(0)
    images = [torch.randn(3, 160, 128), torch.randn(3, 128, 160), torch.randn(3, 160, 160)]
    precisions = [None, torch.bfloat16, *([torch.float16] if device.type == "cuda" else [])]
    rows = agreement(load_model(DEMO_MODEL), device, images)
    rows += [training(device, amp) for amp in precisions]
    rows += latency(device)
    table = Table(title=f"{name}, PyTorch {torch.__version__}", title_justify="left")
    for column in ("check", "measured", "holds"):
        table.add_column(column)
    for check, measured, holds in rows:
        table.add_row(check, measured, str(holds))
    Console().print(table)
    return 0 if all(holds for _, _, holds in rows) else 1


if __name__ == "__main__":
    run(main)
