"""The goldens of YOLOv2: what the published PyTorch implementation computed."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch

from greedyprune.embedded import ASSETS
from greedyprune.models.darknet.cfg import load_cfg
from greedyprune.models.darknet.network import Darknet
from greedyprune.models.darknet.options import DarknetInfo

FOLDER = Path(__file__).parents[2] / "data" / "goldens" / "yolo"
TINY = FOLDER / "darknet_tiny"
PUBLISHED = DarknetInfo(reorg="plain", norm_epsilon="pytorch")
_PARTS = {"conv": "conv", "bn": "norm"}


def said(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def arrays(name):
    with np.load(FOLDER / f"{name}.npz") as found:
        return {key: torch.from_numpy(value) for key, value in found.items()}


def rule():
    spec = importlib.util.spec_from_file_location("fill", FOLDER.parent / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own_key(model, key):
    """`models.N.convM.weight` is the weight of the M-th convolution."""
    _, _, part, what = key.split(".")
    kind = part.rstrip("0123456789")
    layer = model.cfg.convolutions[int(part.removeprefix(kind)) - 1]
    return f"layers.{layer}.{_PARTS[kind]}.{what}"


def filled():
    """YOLOv2 with the golden's weights."""
    golden, fill = said("yolov2_voc"), rule().fill
    model = Darknet(load_cfg(ASSETS / "yolov2-voc.cfg"), PUBLISHED)
    state = {}
    for key, shape in golden["state_dict"].items():
        value = torch.from_numpy(np.asarray(fill(key, tuple(shape))))
        state[own_key(model, key)] = value * np.float32(golden["gain"]) if value.dim() == 4 else value
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    model.seen.fill_(golden["weights_file"]["header"][3])
    return model.eval()


def targets_of(rows):
    """Dicts of `[B, 50, 5]` rows of class, cx, cy, w, h, where a row of zeros ends the list."""
    kept = [image[: int((image[:, 1] == 0).float().cumsum(0).eq(0).sum())] for image in rows]
    return [{"labels": image[:, 0].long(), "boxes": image[:, 1:]} for image in kept]
