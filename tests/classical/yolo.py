"""YOLOv2's convolutions as the golden of the published rules has them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.goldens.fill import fill

# The places of the 23 convolutions among the published network's modules.
_PLACES = (0, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23, 24, 26, 29, 30)
KEYS = [f"models.{place}.conv{number}.weight" for number, place in enumerate(_PLACES, 1)]


@cache
def golden() -> dict[str, Any]:
    """Sizes of the network, and what every rule keeps of it."""
    path = Path(__file__).parents[1] / "data" / "goldens" / "yolo" / "pruned_by_rule.json"
    found: dict[str, Any] = json.loads(path.read_text())["yolov2_voc"]
    return found


@cache
def weights() -> dict[str, Tensor]:
    """The golden's weights of every convolution, a filter a row."""
    found = golden()
    return {
        key: torch.from_numpy(fill(key, (n, fan_in)) * np.exp(8 * fill(f"{key}.spread", (n,)))[:, None])
        for key, n, fan_in in zip(KEYS, found["filters"], found["fan_in"], strict=True)
    }
