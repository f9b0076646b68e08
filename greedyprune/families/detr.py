"""This project's DETRs: DN-DETR and its deformable relatives."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.classes import Classes
from greedyprune.families.base import Asked, Block, Family, Loss
from greedyprune.families.detr_sites import detr_sites
from greedyprune.models import MODELS, Detector, load_model, postprocess, read_checkpoint, save_checkpoint
from greedyprune.models.batch import ImageBatch, pad_images
from greedyprune.models.criterion import Criterion
from greedyprune.models.deformable import DeformableDecoderLayer
from greedyprune.models.deploy import constant_modules, deployed, without_norms
from greedyprune.models.importing.published import search_masks
from greedyprune.models.layers import present
from greedyprune.models.new_classes import with_classes
from greedyprune.models.registry import model_name
from greedyprune.sites import Layout, Site

_FFN = ("linear1", "linear2", "activation")


class DetrFamily(Family):
    """DN-DETR, DN-Deformable-DETR, DN-DETR with a deformable encoder, Deformable DETR."""

    name = "DETR"
    parts = ("backbone", "encoder", "decoder", "heads", "queries", "layers")
    searched = ("encoder", "decoder", "heads", "queries", "layers")
    published = ("encoder", "decoder")
    groups: Mapping[str, tuple[str, ...]] = {"transformer": searched, "all": parts}
    measured: Mapping[str, str] = {"Transformer": "transformer"}
    kinds = tuple(MODELS)
    opening = ("key", "whole_heads")

    def owns(self, model: nn.Module) -> bool:
        return isinstance(model, Detector)

    def sites(self, model: nn.Module) -> tuple[Site, ...]:
        return tuple(detr_sites(_detector(model)))

    def layout(self, model: nn.Module) -> Layout:
        return _detector(model).options.layout

    def classes(self, model: nn.Module) -> Classes:
        return _detector(model).classes

    def sides(self, model: nn.Module) -> tuple[int, int]:
        info = _detector(model).info
        return info.short_side, info.long_side

    def inputs(self, model: nn.Module, images: Sequence[Tensor]) -> ImageBatch:
        return pad_images(images).to(next(model.parameters()).device)

    def answer(self, model: nn.Module, inputs: Any, last_only: bool = False) -> Answer:
        answer: Answer = model(inputs, last_only=last_only)
        return answer

    def detections(self, model: nn.Module, answer: Answer, sizes: Tensor, top_k: int) -> list[dict[str, Tensor]]:
        return postprocess(answer, sizes, top_k)

    def save(self, model: nn.Module, path: Path, extra: Mapping[str, str] | None = None) -> None:
        save_checkpoint(_detector(model), path, extra)

    def reads(self, path: Path) -> bool:
        return True  # the family that published files without a word about themselves are of

    def load(self, path: Path) -> Detector:
        return load_model(path)

    def open(self, path: Path, asked: Asked) -> Detector:
        self.refuse(path, asked)
        return load_model(path, asked.cfgs, cfgs_name="--cfgs", **asked.options)

    def masks(self, path: Path, asked: Asked) -> dict[str, Tensor]:
        self.refuse(path, asked)
        return search_masks(read_checkpoint(path, asked.options.get("key"))[0])

    def widths(self, model: nn.Module) -> dict[str, int]:
        return _detector(model).widths

    def kind(self, model: nn.Module) -> str:
        return model_name(_detector(model))

    def is_dense(self, model: nn.Module) -> bool:
        detector = _detector(model)
        return detector.widths == detector.options.dense_widths()

    def settings(self, model: nn.Module) -> dict[str, Any]:
        detector = _detector(model)
        about = {**detector.options.to_dict(), **asdict(detector.info)}
        cfgs = detector.options.layout.to_text(detector.widths)
        return {"cfgs": cfgs, **{f"model.{name}": value for name, value in about.items()}}

    def with_classes(self, model: nn.Module, classes: Classes, kept: Mapping[int, int]) -> Detector:
        return with_classes(_detector(model), classes, kept)

    def loss(self, model: nn.Module) -> Loss:
        criterion = Criterion(_detector(model).options.num_classes)
        return lambda answer, targets: criterion.total(criterion(answer, targets))

    def deployed(
        self, model: nn.Module, size: tuple[int, int] | None = None, constant: Sequence[str] | None = None
    ) -> nn.Module:
        return deployed(_detector(model), size, constant)

    def folded(self, model: nn.Module) -> nn.Module:
        return without_norms(_detector(model))

    def constants(self, model: nn.Module, size: tuple[int, int] | None = None) -> Sequence[str]:
        return constant_modules(_detector(model), size)

    def blocks(self, model: nn.Module) -> Sequence[Block]:
        detector = _detector(model)
        names = [f"backbone.0.{name}" for name in detector.feature_extractor.blocks]
        blocks = [Block(name, (name,), name, chained=False) for name in names]
        # Where queries are ranked for each image, two decoders are not given the same ones.
        for part in ("encoder",) if detector.options.proposes else ("encoder", "decoder"):
            for index, layer in present(detector.transformer.get_submodule(f"{part}.layers")):  # type: ignore[arg-type]
                prefix, label = f"transformer.{part}.layers.{index}", f"{part} layer {index}"
                # The norm after the last attention, and the layer's last one, under their published names.
                attended = {"encoder": "norm1", "decoder": "norm2"}[part]
                if isinstance(layer, DeformableDecoderLayer):
                    attended = "norm1"
                own = {*_FFN, "norm2" if part == "encoder" else "norm3"}
                children = [name for name, _ in layer.named_children()]
                halves = ([name for name in children if (name in own) == ffn] for ffn in (False, True))
                attention, ffn = (tuple(f"{prefix}.{name}" for name in half) for half in halves)
                blocks.append(Block(f"{prefix}.{attended}", attention, label))
                blocks.append(Block(prefix, ffn, f"{label}, its FFN"))
        return blocks

    def hints(self, model: nn.Module) -> Sequence[str]:
        detector = _detector(model)
        if detector.options.proposes:
            return ("transformer.encoder",)
        decoder = detector.transformer.decoder
        return ("transformer.encoder", *(f"transformer.decoder.layers.{index}" for index in decoder.answering))

    def shown(self, model: nn.Module, inputs: Any, module: str, output: Tensor) -> Tensor | None:
        images: ImageBatch = inputs
        detector = _detector(model)
        decoder = "transformer.decoder"
        # The box head after those of the layers makes proposals of the encoder's tokens; all others see queries.
        proposes = module.startswith(f"{decoder}.bbox_embed.{len(detector.transformer.decoder.layers)}.")
        if images.padding is None or (module.startswith(f"{decoder}.") and not proposes):
            return None
        if output.dim() == 4:
            found = detector.feature_extractor.padding(images, output.shape[-2:])
            return None if found is None else ~found
        height, width = images.padding.shape[-2:]
        # Every convolution of stride 2 rounds up.
        sizes = [torch.Size((-(-height // stride), -(-width // stride))) for stride in detector.strides]
        levels = [detector.padding(images, size) for size in sizes]
        return ~torch.cat([level.flatten(1) for level in levels if level is not None], dim=1)


def _detector(model: nn.Module) -> Detector:
    assert isinstance(model, Detector)
    return model
