"""Checkpoints of Darknet detectors: safetensors files that know their shape, and `.weights` files with their cfg."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.files import atomic_write
from greedyprune.models.checkpoint import FORMAT, METADATA_KEY, check_format, read_checkpoint
from greedyprune.models.darknet.cfg import Cfg, read_cfg
from greedyprune.models.darknet.cfg_text import cfg_text
from greedyprune.models.darknet.layers import Reorg
from greedyprune.models.darknet.network import Darknet
from greedyprune.models.darknet.options import DarknetInfo
from greedyprune.models.darknet.weights_file import read_weights, write_weights
from greedyprune.models.options import from_stored
from greedyprune.ranges import COUNT, COUNT_OR_NONE, shown
from greedyprune.tensors import check_finite, write_tensors

NAME = "darknet"  # in a checkpoint's metadata
WEIGHTS = ".weights"
_COUNTER = "num_batches_tracked"


def is_darknet(path: Path) -> bool:
    """Whether a file is a checkpoint of a Darknet detector, or a `.weights` file."""
    if path.suffix == WEIGHTS:
        return True
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError):
        return False  # whoever reads it says what is wrong with it
    return isinstance(about, dict) and about.get("model") == NAME


def save_darknet(model: Darknet, path: str | Path, extra: Mapping[str, str] | None = None) -> None:
    """Write weights, layers, widths, classes and options as one file; see `save_checkpoint` of the DETRs."""
    about = {
        "format": FORMAT,
        "model": NAME,
        "cfg": cfg_text(model.cfg),
        "filters": list(model.filters),
        "info": asdict(model.info),
        "seen": int(model.seen),
    }
    write_tensors(path, _own(model), {METADATA_KEY: json.dumps(about), **(extra or {})})


def load_darknet(path: Path) -> Darknet:
    """The detector of a file of `save_darknet`, in eval mode on the CPU.

    Raises:
        UserError: the file cannot be used.
    """
    place = f"checkpoint {path}"
    state, about, _ = read_checkpoint(path)
    try:
        cfg, filters, info, seen = _described(about)
        with torch.device("meta"):  # what a damaged file says of its layers may be as large as it likes
            sketch = Darknet(cfg, info, filters)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    _check(state, _own(sketch), place)
    model = Darknet(cfg, info, filters)
    model.load_state_dict(state, strict=False)
    model.seen.fill_(seen)
    return model.eval()


def load_weights(path: Path, cfg: Cfg, info: DarknetInfo) -> Darknet:
    """The detector of a `.weights` file, in eval mode on the CPU.

    Args:
        path: the file.
        cfg: its layers; the file does not tell them.
        info: what else it does not tell.

    Raises:
        UserError: the file is of other layers.
    """
    model = Darknet(cfg, info)
    read_weights(model, path)
    return model.eval()


def save_weights(model: Darknet, path: Path) -> None:
    """Write a `.weights` file, and beside it the cfg file of its name, as the detector is now, for Darknet.

    Raises:
        UserError: a weight is not finite, or the reorg order is not Darknet's, which no cfg file can say.
    """
    check_finite(path, _own(model))
    has_reorg = any(isinstance(layer, Reorg) for layer in model.layers)
    if has_reorg and model.info.reorg != "darknet":
        raise UserError(f"{path} is not written: its reorg layers have the plain order, and Darknet has its own")
    write_weights(model, path)
    atomic_write(path.with_suffix(".cfg"), cfg_text(model.cfg.with_filters(model.filters)))


def _own(model: Darknet) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name != "seen"}


def _described(about: Mapping[str, Any]) -> tuple[Cfg, tuple[int, ...], DarknetInfo, int]:
    """What a checkpoint says that it is."""
    check_format(about)
    for part, kind in (("cfg", str), ("filters", list), ("info", dict)):
        if not isinstance(about.get(part), kind):
            raise UserError(f"it has damaged metadata: its {part} is {shown(about.get(part))}")
    cfg, info = read_cfg(about["cfg"], "its metadata's cfg"), from_stored(DarknetInfo, about["info"])
    filters = about["filters"]
    if len(filters) != len(cfg.filters):
        raise UserError(f"it has damaged metadata: {len(filters)} widths for {len(cfg.filters)} convolutions")
    for number, (own, dense) in enumerate(zip(filters, cfg.filters, strict=True), start=1):
        COUNT.check(own, f"its metadata's width of convolution {number}")
        if own > dense:
            raise UserError(f"it has damaged metadata: convolution {number} has {own} filters of {dense}")
    COUNT_OR_NONE.check(about.get("seen"), "its metadata's number of images seen")
    info.classes(cfg.region.classes)
    return cfg, tuple(filters), info, about["seen"]


def _check(state: Mapping[str, Tensor], own: Mapping[str, Tensor], place: str) -> None:
    """Refuse tensors that are not those of the detector."""
    for key in (*own, *state):
        have, want = (None if key not in tensors else list(tensors[key].shape) for tensors in (state, own))
        if have != want and not key.endswith(_COUNTER):
            raise UserError(f"{place} is damaged: {key} has shape {have or 'none'}, its cfg says {want or 'none'}")
