"""Darknet's detectors with a region layer: YOLOv2 and its relatives."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.classes import Classes
from greedyprune.errors import UserError
from greedyprune.families.base import Asked, Family, Loss, Target
from greedyprune.families.darknet_blocks import removable_blocks, without_blocks
from greedyprune.families.darknet_sites import darknet_layout, darknet_sites
from greedyprune.image_form import ImageForm, Stretched
from greedyprune.models.darknet import Darknet, DarknetInfo, load_darknet, save_darknet
from greedyprune.models.darknet.cfg_text import cfg_text
from greedyprune.models.darknet.checkpoint import NAME, WEIGHTS, is_darknet, load_weights, save_weights
from greedyprune.models.darknet.decode import RegionAnswer, decode, suppressed
from greedyprune.models.darknet.files import find_layers
from greedyprune.models.darknet.new import with_classes
from greedyprune.models.darknet.region_loss import WARM_UP, region_losses
from greedyprune.models.deploy import folded
from greedyprune.sites import Change, Layout, Site

_DETECTING = ("score_threshold", "nms_iou", "per_class_nms")
_OF_WEIGHTS = ("cfg", "names", "reorg", "norm_epsilon")  # what a .weights file does not say


class DarknetFamily(Family):
    """YOLOv2, Tiny YOLOv2, and what else a cfg file makes of the same layers."""

    name = "Darknet detector"
    parts = ("convolutions",)
    searched = ("convolutions",)
    kinds = (NAME,)
    opening = (*_OF_WEIGHTS, *_DETECTING)

    def owns(self, model: nn.Module) -> bool:
        return isinstance(model, Darknet)

    def sites(self, model: nn.Module) -> tuple[Site, ...]:
        return darknet_sites(_darknet(model))

    def layout(self, model: nn.Module) -> Layout:
        return darknet_layout(_darknet(model))

    def classes(self, model: nn.Module) -> Classes:
        return _darknet(model).classes

    def sides(self, model: nn.Module) -> tuple[int, int]:
        cfg = _darknet(model).cfg
        return min(cfg.height, cfg.width), max(cfg.height, cfg.width)

    def form(self, model: nn.Module) -> ImageForm:
        cfg = _darknet(model).cfg
        return ImageForm.unnormalised(Stretched(cfg.height, cfg.width))

    def inputs(self, model: nn.Module, images: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(images)).to(next(model.parameters()).device)

    def answer(self, model: nn.Module, inputs: Any, last_only: bool = False) -> RegionAnswer:
        detector = _darknet(model)
        return decode(detector(inputs), detector.anchors)

    def detections(self, model: nn.Module, answer: Answer, sizes: Tensor, top_k: int) -> list[dict[str, Tensor]]:
        info = _darknet(model).info
        return suppressed(answer, sizes, top_k, info.score_threshold, info.nms_iou, info.per_class_nms)

    def save(self, model: nn.Module, path: Path, extra: Mapping[str, str] | None = None) -> None:
        if path.suffix == WEIGHTS:  # Darknet's own form, which tells neither classes nor options
            save_weights(_darknet(model), path)
        else:
            save_darknet(_darknet(model), path, extra)

    def reads(self, path: Path) -> bool:
        return is_darknet(path)

    def load(self, path: Path) -> Darknet:
        return self._loaded(path, {})

    def open(self, path: Path, asked: Asked) -> Darknet:
        self.refuse(path, asked)
        model = self._loaded(path, asked.options)
        self.expect(model, path, asked.cfgs)
        return model

    def is_dense(self, model: nn.Module) -> bool:
        detector = _darknet(model)
        return detector.filters == detector.cfg.filters

    def settings(self, model: nn.Module) -> dict[str, Any]:
        detector = _darknet(model)
        about = {"cfg": cfg_text(detector.cfg), **asdict(detector.info)}
        return {"cfgs": list(detector.filters), **{f"model.{name}": value for name, value in about.items()}}

    def with_classes(self, model: nn.Module, classes: Classes, kept: Mapping[int, int]) -> Darknet:
        return with_classes(_darknet(model), classes, kept)

    def loss(self, model: nn.Module) -> Loss:
        """The region loss, summed as published but for the images, over which it is a mean."""
        detector = _darknet(model)

        def loss(answer: Answer, targets: Sequence[Target]) -> Tensor:
            assert isinstance(answer, RegionAnswer)
            warming = detector.training and int(detector.seen) < WARM_UP
            parts = region_losses(answer.raw, targets, detector.anchors, detector.region, warming)
            return torch.stack(list(parts.values())).sum() / len(targets)

        return loss

    def saw(self, model: nn.Module, images: int) -> None:
        _darknet(model).seen += images

    def scales(self, model: nn.Module) -> list[tuple[int, int]]:
        """From 10/13 to 19/13 of the cfg's size, as 320 to 608 are of 416, in multiples of the stride."""
        cfg = _darknet(model).cfg
        found = {
            (_multiple(cfg.height * part / 13, cfg.stride), _multiple(cfg.width * part / 13, cfg.stride))
            for part in range(10, 20)
        }
        return sorted(found)

    def removable(self, model: nn.Module) -> list[str]:
        return list(removable_blocks(_darknet(model)))

    def without(self, model: nn.Module, parts: Collection[str]) -> Change:
        return without_blocks(_darknet(model), parts)

    def folded(self, model: nn.Module) -> nn.Module:
        return folded(_darknet(model))

    def deployed(
        self, model: nn.Module, size: tuple[int, int] | None = None, constant: Sequence[str] | None = None
    ) -> nn.Module:
        return self.folded(model)

    def _loaded(self, path: Path, options: Mapping[str, Any]) -> Darknet:
        if path.suffix != WEIGHTS:
            said = next((name for name in options if name in _OF_WEIGHTS), None)
            if said is not None:
                raise UserError(f"--{said} is for {WEIGHTS} files; checkpoint {path} says it itself, leave it out")
            model = load_darknet(path)
            model.info = replace(model.info, **options)
            return model
        cfg, names = find_layers(options.get("cfg"), options.get("names"), path)
        given = {name: value for name, value in options.items() if name not in ("cfg", "names")}
        return load_weights(path, cfg, DarknetInfo(class_names=names, **given))


def _multiple(side: float, stride: int) -> int:
    return max(1, round(side / stride)) * stride


def _darknet(model: nn.Module) -> Darknet:
    assert isinstance(model, Darknet)
    return model
