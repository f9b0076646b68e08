"""The names of tensors that the imports of HuggingFace `transformers` models have in common."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.models.importing.wrapped import State

_LAYER = re.compile(r"model\.(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")
# What `save_pretrained` calls conv_encoder has no name in the state dict of today's versions.
_BACKBONE = re.compile(r"model\.backbone\.(?:conv_encoder\.)?model\.(?:_backbone\.)?(.+)")
# HuggingFace's own ResNet; timm's has torchvision's names.
_STEM = re.compile(r"embedder\.embedder\.(convolution|normalization)\.(.+)")
_BLOCK = re.compile(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.(convolution|normalization)\.(.+)")
_SHORTCUT = re.compile(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.(convolution|normalization)\.(.+)")


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
    renamed: State = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = _rename(key, whole, layers, model)
        if name in renamed and not torch.equal(renamed[name], value):
            raise UserError(f"the HuggingFace model has {key} and another tensor in its place, which differ")
        renamed[name] = value
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
            if not state[part].dim() or state[part].shape != state[key].shape:
                raise UserError(f"the HuggingFace model's {part} has shape {list(state[part].shape)}, unlike {key}")
        state[f"{layer}.in_proj_{kind}"] = torch.cat([state.pop(part) for part in parts])
