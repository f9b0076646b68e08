"""What a detector takes beside its AP: parameters that are not zero, bytes of its file, and time."""

import zlib
from pathlib import Path

import torch
from torch import nn

from greedyprune.classical.weights import has_zeros
from greedyprune.comparison.row import Sizes
from greedyprune.evaluation.evaluate import describe_device
from greedyprune.evaluation.profile import WHOLE, Latency, measure_latency
from greedyprune.families.base import Family
from greedyprune.packed import write_packed

BATCHES = (1, 8)  # images at once, whose time is measured


def saved(family: Family, model: nn.Module, path: Path) -> Sizes:
    """Save a detector as small as that loses nothing.

    Args:
        family: of the detector.
        model: the detector.
        path: the file.
    """
    if has_zeros(model):
        sizes = write_packed(lambda whole: family.save(model, whole), path)
        return Sizes(sizes.dense, sizes.zipped, sizes.packed)
    path.parent.mkdir(parents=True, exist_ok=True)
    family.save(model, path)
    content = path.read_bytes()
    return Sizes(len(content), len(zlib.compress(content)), len(content))


def times(family: Family, model: nn.Module, size: tuple[int, int], runs: int, amp: str) -> dict[str, Latency]:
    """Time of a forward pass of the deployed form, where the detector is, and on the CPU too.

    Args:
        family: of the detector.
        model: the detector.
        size: height and width of an image in pixels.
        runs: timed passes of each batch size; 0: nothing is measured.
        amp: see `autocast`.

    Returns:
        By `cpu, batch 8` and the like.
    """
    found: dict[str, Latency] = {}
    here = next(model.parameters()).device
    for device in dict.fromkeys((torch.device("cpu"), here)) if runs else ():
        fast = family.deployed(model, size).to(device)
        for batch in BATCHES:
            label = f"{describe_device(device)}, batch {batch}"
            found[label] = measure_latency(family, fast, size, runs=runs, amp=amp, batch=batch)[WHOLE]
    return found
