"""Published checkpoints: their key names."""

import re
from collections.abc import Mapping

from torch import Tensor

from greedyprune.models.importing.mmdetection import convert_mmdetection, is_mmdetection
from greedyprune.models.importing.wrapped import State

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


def convert_keys(state: Mapping[str, Tensor]) -> State:
    """Any published form of a detector's state dict, with this project's key names and without what is derived.

    Encoder keys get the `self_attn.` that the pruning code left out; the decoder's copies of shared heads, frozen batch
    norm counters and search-time masks (see `search_masks`) are dropped.

    Raises:
        UserError: it is of a detector of MMDetection that cannot be imported.
    """
    if is_mmdetection(state):
        return convert_mmdetection(state)
    renamed = {}
    for key, value in state.items():
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
        match = _SEARCH_MASK.fullmatch(key)
        if match and match[4] == "a" and (match[1], match[3]) in _SELECTED_SITE:
            masks[f"{match[1]}.{match[2]}.{_SELECTED_SITE[match[1], match[3]]}"] = value.flatten().float()
    return masks
