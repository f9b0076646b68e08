"""A family of its own: a small convolutional detector with one box a cell and a softmax with "no object"."""

from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from greedyprune.answer import Answer, Softmax
from greedyprune.boxes import cxcywh_to_xyxy
from greedyprune.classes import Classes
from greedyprune.families.base import Family
from greedyprune.sites import FlatLayout, HiddenSite, Reader, Slice


class GridDetector(nn.Module):
    def __init__(self, classes=3, widths=(16, 24)):
        super().__init__()
        first, second = widths
        self.conv1, self.conv2 = nn.Conv2d(3, first, 3, 4, 1), nn.Conv2d(first, second, 3, 4, 1)
        self.head = nn.Conv2d(second, classes + 5, 1)

    def forward(self, images):  # [B, 3, H, W]
        found = self.head(self.conv2(self.conv1(images).relu()).relu()).flatten(2).mT  # [B, cells, classes + 5]
        return found[..., :-4], found[..., -4:].sigmoid()


class GridFamily(Family):
    name, parts, searched = "grid detector", ("convolutions",), ("convolutions",)

    def owns(self, model):
        return isinstance(model, GridDetector)

    def sites(self, model):
        return [self.site(model, "conv1", "conv2"), self.site(model, "conv2", "head")]

    def site(self, model, name, reader):
        slices = [Slice(f"{name}.{each}", 0, ("hidden",)) for each in ("weight", "bias")]
        slices.append(Slice(f"{reader}.weight", 1, ("output",)))
        full = len(model.get_submodule(name).weight)
        about = {"name": name, "label": name, "part": "convolutions", "full": full, "step": 4, "sort": "conv"}
        return HiddenSite(**about, slices=tuple(slices), readers=(Reader(reader),))

    def layout(self, model):
        return FlatLayout(self.sites(GridDetector(len(model.head.weight) - 5)))

    def classes(self, model):
        return Classes(len(model.head.weight) - 5, (1, 2, 3), tuple("abc"))

    def sides(self, model):
        return 64, 64

    def inputs(self, model, images):
        return torch.stack(list(images))

    def answer(self, model, inputs, last_only=False):
        return Answer(*model(inputs), Softmax())

    def detections(self, model, answer, sizes, top_k):
        scores, labels = answer.link.chances(answer.logits).max(-1)
        scale = sizes.flip(1).repeat(1, 2)[:, None]
        boxes = cxcywh_to_xyxy(answer.boxes) * scale
        order = scores.argsort(1, descending=True)[:, :top_k]
        rows = zip(scores, labels, boxes, order, strict=True)
        return [{"scores": s[o], "labels": each[o], "boxes": b[o]} for s, each, b, o in rows]

    def save(self, model, path: Path, extra=None):
        safetensors.torch.save_file(model.state_dict(), path, extra)

    def load(self, path: Path):
        state = safetensors.torch.load_file(path)
        model = GridDetector(len(state["head.weight"]) - 5, (len(state["conv1.weight"]), len(state["conv2.weight"])))
        model.load_state_dict(state)
        return model.eval()
