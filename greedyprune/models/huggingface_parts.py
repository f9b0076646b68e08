"""What the imports of HuggingFace `transformers` models have in common."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.models.backbone import RESNETS
from greedyprune.models.wrapped import State

_LAYER = re.compile(r"model\.(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")
_BACKBONE = re.compile(r"model\.backbone\.conv_encoder\.model\.(?:_backbone\.)?(.+)")
# HuggingFace's own ResNet; timm's has torchvision's names.
_STEM = re.compile(r"embedder\.embedder\.(convolution|normalization)\.(.+)")
_BLOCK = re.compile(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.(convolution|normalization)\.(.+)")
_SHORTCUT = re.compile(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.(convolution|normalization)\.(.+)")
_NEEDED_OF_RESNET = (
    ("hidden_act", "relu", "relu"),
    ("downsample_in_bottleneck", False, False),
    ("downsample_in_first_stage", False, False),
)


def config_part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object inside `config.json`; empty where it is missing.

    Raises:
        UserError: it is something else.
    """
    part = config.get(name) or {}
    if not isinstance(part, Mapping):
        raise UserError(f"config of the HuggingFace model: {name} is {part!r}, expected an object")
    return part


def need(config: Mapping[str, Any], needed: tuple[tuple[str, Any, Any], ...], place: str) -> None:
    """Refuse settings that change the arithmetic: name, the value that is needed, what is meant where it is unset."""
    for name, value, unset in needed:
        if config.get(name, unset) != value:
            raise UserError(f"{place}: {name} is {config.get(name, unset)!r}; only {value!r} can be imported")


def check_halves(config: Mapping[str, Any], model: str, ffn: int) -> None:
    """Refuse a model whose encoder and decoder have other heads or FFNs."""
    for same, unset in (("attention_heads", 8), ("ffn_dim", ffn)):
        encoder, decoder = config.get(f"encoder_{same}", unset), config.get(f"decoder_{same}", unset)
        if encoder != decoder:
            raise UserError(
                f"config.json: encoder_{same} is {encoder} and decoder_{same} {decoder}; {model} has one for both"
            )


def check_backbone(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The backbone's own settings, if it is a ResNet that can be imported."""
    backbone = config_part(config, "backbone_config")
    if backbone.get("model_type") == "resnet":
        need(backbone, _NEEDED_OF_RESNET, "config.json, backbone_config")
    else:
        name = str(backbone.get("backbone") or config.get("backbone") or "resnet50")
        if name.split(".")[0] not in RESNETS:
            raise UserError(f"config.json: backbone {name!r} is not supported; {', '.join(RESNETS)} are")
    return backbone


def is_dilated(config: Mapping[str, Any], backbone: Mapping[str, Any]) -> bool:
    """Whether the backbone, of these own settings, keeps its last stage's stride at 16."""
    return bool(config.get("dilation")) or backbone.get("output_stride") == 16


def rename(
    state: Mapping[str, Tensor], whole: Mapping[str, str], layers: Mapping[str, Mapping[str, str]], model: str
) -> State:
    """The state dict under this project's names, with self-attention's three input projections as one tensor.

    Args:
        state: HuggingFace's.
        whole: this project's name of each part that is neither backbone nor layer, by HuggingFace's.
        layers: for "encoder" and "decoder" the names inside a layer, likewise.
        model: its name, for messages.

    Raises:
        UserError: a tensor has no name here, or a projection is missing.
    """
    renamed = {
        _rename(key, whole, layers, model): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }
    _stack_projections(renamed)
    return renamed


def _rename(key: str, whole: Mapping[str, str], layers: Mapping[str, Mapping[str, str]], model: str) -> str:
    """This project's name of a HuggingFace tensor."""
    if match := _LAYER.fullmatch(key):
        part, index, name, kind = match.groups()
        if name in layers[part]:
            return f"transformer.{part}.layers.{index}.{layers[part][name]}.{kind}"
    elif match := _BACKBONE.fullmatch(key):
        return f"backbone.0.body.{_rename_resnet(match[1])}"
    else:
        for theirs, ours in whole.items():
            if key == theirs or key.startswith(theirs + "."):
                return ours + key.removeprefix(theirs)
    raise UserError(f"the HuggingFace model has {key}, which no {model} has that can be imported")


def _rename_resnet(key: str) -> str:
    """torchvision's name of a tensor of HuggingFace's ResNet; timm's names are the same already."""
    if match := _STEM.fullmatch(key):
        return f"{'conv' if match[1] == 'convolution' else 'bn'}1.{match[2]}"
    if match := _BLOCK.fullmatch(key):
        stage, block, index, kind, rest = match.groups()
        return f"layer{int(stage) + 1}.{block}.{'conv' if kind == 'convolution' else 'bn'}{int(index) + 1}.{rest}"
    if match := _SHORTCUT.fullmatch(key):
        stage, block, kind, rest = match.groups()
        return f"layer{int(stage) + 1}.{block}.downsample.{0 if kind == 'convolution' else 1}.{rest}"
    return key


def _stack_projections(state: State) -> None:
    """Self-attention's three input projections as one tensor, in place."""
    for key in [key for key in state if re.search(r"(?:en|de)coder\.layers\.\d+\.self_attn\.q\.", key)]:
        layer, kind = key.rsplit(".q.", 1)
        parts = [f"{layer}.{name}.{kind}" for name in "qkv"]
        for part in parts:
            if part not in state:
                raise UserError(f"the HuggingFace model lacks a projection: {key} is there and {part} is not")
        state[f"{layer}.in_proj_{kind}"] = torch.cat([state.pop(part) for part in parts])
