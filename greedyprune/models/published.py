"""Published checkpoints: their key names."""

import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from greedyprune.errors import UserError

State = dict[str, Tensor]

_ENCODER_FLAT = re.compile(r"(transformer\.encoder\.layers\.\d+\.)((?:in_proj_|out_proj\.).+)")
# Heads that the decoder shares with the detector.
_SHARED = ("transformer.decoder.bbox_embed.", "transformer.decoder.class_embed.")
_SEARCH_MASK = re.compile(r"transformer\.(encoder|decoder)\.layers\.(\d+)\.select(\d)\.prune_(\w+)")
_SELECTED_SITE = {
    ("encoder", "1"): "attn",
    ("encoder", "2"): "ffn",
    ("decoder", "1"): "self",
    ("decoder", "2"): "cross",
    ("decoder", "3"): "ffn",
}


def unwrap(content: Any, path: str) -> tuple[State, dict[str, Any]]:
    """The state dict of a checkpoint, and the training arguments stored beside it.

    Args:
        content: a state dict, or a dict that holds one as `model`, `state_dict` or `model_state_dict`.
        path: where it was read, for messages.

    Raises:
        UserError: there is no state dict in it.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint with a state dict")
    arguments = content.get("args")
    for name in ("model", "state_dict", "model_state_dict"):
        if isinstance(content.get(name), Mapping):
            content = content[name]
            break
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"{path} holds no tensors: its keys are {', '.join(map(str, list(content)[:5])) or 'none'}")
    if isinstance(arguments, Namespace):
        arguments = vars(arguments)
    return state, dict(arguments) if isinstance(arguments, Mapping) else {}


def convert_keys(state: Mapping[str, Tensor]) -> State:
    """Any published form of a detector's state dict, with this project's key names and without what is derived.

    Data-parallel prefixes go; encoder keys get the `self_attn.` that the pruning code left out; the decoder's copies
    of shared heads, frozen batch norm counters and search-time masks (see `search_masks`) are dropped.
    """
    renamed = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        if flat := _ENCODER_FLAT.fullmatch(key):
            key = f"{flat[1]}self_attn.{flat[2]}"
        renamed[key] = value
    result = {}
    for key, value in renamed.items():
        if ".select" in key and _SEARCH_MASK.fullmatch(key):
            continue
        if key.startswith(_SHARED):
            key = key.removeprefix("transformer.decoder.")
            if key in renamed:
                continue
        result[key] = value
    return result


def search_masks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Site name -> `prune_a` `[width]` of a published search-time checkpoint; a channel is kept where it is > 0."""
    masks = {}
    for key, value in state.items():
        match = _SEARCH_MASK.fullmatch(key.removeprefix("module."))
        if match and match[4] == "a" and (match[1], match[3]) in _SELECTED_SITE:
            masks[f"{match[1]}.{match[2]}.{_SELECTED_SITE[match[1], match[3]]}"] = value.flatten().float()
    return masks


def as_float32(state: State) -> State:
    """Half-precision weights as float32; whole numbers stay."""
    return {key: value.to(torch.float32) if value.is_floating_point() else value for key, value in state.items()}
