"""Outputs of published models, for weights filled by a rule. `GREEDYPRUNE_GOLDENS=DIR` reads another folder."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import torch

GOLDENS = Path(os.environ.get("GREEDYPRUNE_GOLDENS") or Path(__file__).parents[1] / "data" / "goldens")
OUTPUT = {"rtol": 1e-3, "atol": 1e-4}


def names_of(framework):
    """Goldens of DETRs of a framework; None: of the published code. A folder may hold others beside them."""
    found = []
    for path in sorted(GOLDENS.glob("*.json")):
        said = json.loads(path.read_text())
        config = said.get("config") if "state_dict" in said else None
        if isinstance(config, dict) and "dec_layers" in config and config.get("framework") == framework:
            found.append(path.stem)
    return found


class Golden:
    """What a golden says, its weights as a published state dict, and its images."""

    def __init__(self, name):
        self.said = json.loads((GOLDENS / f"{name}.json").read_text())
        self.wanted = np.load(GOLDENS / f"{name}.npz")
        spec = importlib.util.spec_from_file_location("fill", GOLDENS / "fill.py")
        fill = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(fill)
        self.images = [torch.from_numpy(image) for image in fill.images(self.said["sizes"], self.said["image_seed"])]
        self.targets = [
            {key: torch.from_numpy(value) for key, value in target.items()}
            for target in fill.targets(self.said.get("target_seed", 0), self.said.get("target_counts", []))
        ]
        self.state, aliases = {}, self.said.get("aliases") or {}
        for key, shape in self.said["state_dict"].items():
            self.state[key] = torch.from_numpy(np.asarray(fill.fill(aliases.get(key, key), tuple(shape))))

    def assert_outputs(self, answer):
        """Logits and boxes of an answer in eval mode are the published ones."""
        for name in ("logits", "boxes"):
            np.testing.assert_allclose(getattr(answer, name), self.wanted[f"pred_{name}"], **OUTPUT)
            means = [getattr(layer, name).mean().item() for layer in answer.earlier]
            np.testing.assert_allclose(means, self.wanted[f"aux_{name}_mean"], **OUTPUT)

    def assert_detections(self, found):
        """Detections of the first image at 480 x 640 are the published ones."""
        wanted = {name: self.wanted[f"post_{name}"] for name in ("scores", "labels", "boxes")}
        found = {name: value.numpy() for name, value in found.items()}
        np.testing.assert_allclose(found["scores"], wanted["scores"], **OUTPUT)
        assert (np.diff(found["scores"]) <= 0).all()
        # Scores that rounding cannot tell apart may come in either order, so detections are looked up instead of lined
        # up; at the end of the list a twin may have fallen off it.
        apart = np.abs(found["scores"][:, None] - wanted["scores"][None])  # [found, wanted]
        pixels = np.abs(found["boxes"][:, None] - wanted["boxes"][None])  # [found, wanted, 4]
        same = apart <= OUTPUT["atol"] + OUTPUT["rtol"] * wanted["scores"]
        same &= (pixels <= OUTPUT["atol"] * 640 + OUTPUT["rtol"] * np.abs(wanted["boxes"])).all(-1)
        same &= found["labels"][:, None] == wanted["labels"][None]
        inside = wanted["scores"] > wanted["scores"][-1] * (1 + OUTPUT["rtol"]) + OUTPUT["atol"]
        assert same.any(0)[inside].all()
        assert same.any(1)[: inside.sum()].all()
