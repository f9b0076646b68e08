"""Published checkpoints: their key names, and the shape that their tensors tell."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from greedyprune.cfgs import Cfgs
from greedyprune.errors import UserError
from greedyprune.models.options import DNDETROptions

State = dict[str, Tensor]

_ENCODER_FLAT = re.compile(r"(transformer\.encoder\.layers\.\d+\.)((?:in_proj_|out_proj\.).+)")
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
    return state, dict(vars(arguments)) if hasattr(arguments, "__dict__") else {}


def convert_keys(state: Mapping[str, Tensor]) -> State:
    """Any published form of a DN-DETR state dict, with this project's key names and without what is derived.

    Data-parallel prefixes go; encoder keys get the `self_attn.` that the pruning code left out; the decoder's copy
    of the shared box head, frozen batch norm counters and search-time masks (see `search_masks`) are dropped.
    """
    renamed = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        if flat := _ENCODER_FLAT.fullmatch(key):
            key = f"{flat[1]}self_attn.{flat[2]}"
        renamed[key] = value
    shared = "transformer.decoder.bbox_embed."
    result = {}
    for key, value in renamed.items():
        if ".select" in key and _SEARCH_MASK.fullmatch(key):
            continue
        if key.startswith(shared):
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
        if match and match[4] == "a":
            part, index, select = match[1], match[2], match[3]
            masks[f"{part}.{index}.{_SELECTED_SITE[part, select]}"] = value.flatten().float()
    return masks


def infer_shape(state: State, arguments: Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[DNDETROptions, Cfgs]:
    """Options and widths of the DN-DETR that a converted state dict belongs to.

    What tensors cannot tell (heads, temperatures, dilation) comes from the training arguments stored beside them,
    else from the published defaults.

    Args:
        state: converted keys.
        arguments: the published code's own training arguments, may be empty.
        overrides: options that the caller knows better.

    Raises:
        UserError: it is not a DN-DETR's state dict.
    """
    needed = ("class_embed.weight", "refpoint_embed.weight", "label_enc.weight", "transformer.encoder.layers.0.linear1.weight")
    for key in needed:
        if key not in state:
            raise UserError(f"the checkpoint is not a DN-DETR's: it has no {key}")
    encoder = []
    for i in range(_count(state, "transformer.encoder.layers")):
        layer = f"transformer.encoder.layers.{i}"
        encoder.append((_rows(state, f"{layer}.self_attn.in_proj_weight") // 3, _rows(state, f"{layer}.linear1.weight")))
    decoder = []
    for i in range(_count(state, "transformer.decoder.layers")):
        layer = f"transformer.decoder.layers.{i}"
        rows = [_rows(state, f"{layer}.{name}.weight") for name in ("sa_v_proj", "ca_v_proj", "linear1")]
        decoder.append((rows[0], rows[1], rows[2]))
    cfgs = Cfgs(tuple(encoder), tuple(decoder))
    widest = max([ffn for _, ffn in encoder] + [ffn for _, _, ffn in decoder])
    classes, hidden_dim = state["class_embed.weight"].shape
    options: dict[str, Any] = {
        "num_classes": classes,
        "backbone": _backbone(state),
        "dilation": bool(arguments.get("dilation", False)),
        "hidden_dim": hidden_dim,
        "heads": int(arguments.get("nheads", 8)),
        "enc_layers": len(encoder),
        "dec_layers": len(decoder),
        # A slim file no longer says how wide the dense FFN was; the published one is 2048.
        "ffn_dim": int(arguments.get("dim_feedforward", max(widest, 2048))),
        "num_queries": len(state["refpoint_embed.weight"]),
        "num_patterns": len(state.get("transformer.patterns.weight", ())),
        "activation": _activation(state, arguments),
        "temperature_h": float(arguments.get("pe_temperatureH", 20)),
        "temperature_w": float(arguments.get("pe_temperatureW", 20)),
        "random_refpoints_xy": bool(arguments.get("random_refpoints_xy", False)),
    }
    return DNDETROptions.from_dict({**options, **overrides}), cfgs


def _rows(state: State, key: str) -> int:
    if key not in state:
        raise UserError(f"the checkpoint is not a DN-DETR's: it has no {key}")
    return len(state[key])


def _count(state: State, prefix: str) -> int:
    return len({key.removeprefix(prefix + ".").split(".")[0] for key in state if key.startswith(prefix + ".")})


def _activation(state: State, arguments: Mapping[str, Any]) -> str:
    if "transformer.encoder.layers.0.activation.weight" in state:
        return "prelu"
    return str(arguments.get("transformer_activation", "relu"))


def _backbone(state: State) -> str:
    body = "backbone.0.body"
    if f"{body}.layer4.0.conv1.weight" not in state:
        return "small"
    third = _count(state, f"{body}.layer3")
    if f"{body}.layer4.0.conv3.weight" in state:
        return "resnet101" if third > 6 else "resnet50"
    return "resnet34" if third > 2 else "resnet18"


def as_float32(state: State) -> State:
    """Half-precision weights as float32; whole numbers stay."""
    return {key: value.to(torch.float32) if value.is_floating_point() else value for key, value in state.items()}
