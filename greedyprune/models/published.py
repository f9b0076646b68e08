"""Published checkpoints: their key names, and the shape that their tensors tell."""

import re
from argparse import Namespace
from collections.abc import Callable, Mapping
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
    if isinstance(arguments, Namespace):
        arguments = vars(arguments)
    return state, dict(arguments) if isinstance(arguments, Mapping) else {}


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
        if match and match[4] == "a" and (match[1], match[3]) in _SELECTED_SITE:
            masks[f"{match[1]}.{match[2]}.{_SELECTED_SITE[match[1], match[3]]}"] = value.flatten().float()
    return masks


def infer_shape(
    state: State, arguments: Mapping[str, Any], overrides: Mapping[str, Any], place: str = "the state dict"
) -> tuple[DNDETROptions, Cfgs]:
    """Options and widths of the DN-DETR that a converted state dict belongs to.

    What tensors cannot tell (heads, temperatures, dilation) comes from the training arguments stored beside them,
    else from the published defaults.

    Args:
        state: converted keys.
        arguments: the published code's own training arguments, may be empty.
        overrides: options that the caller knows better.
        place: where it was read, for messages.

    Raises:
        UserError: it is not a DN-DETR's state dict.
    """
    if any(key.endswith("query_refpoint_embeddings.weight") for key in state):
        raise UserError(f"{place} is a HuggingFace DAB-DETR's: convert it with tools/import_hf.py first")
    shapes = _Shapes(state, arguments, place)
    classes, hidden_dim = shapes.matrix("class_embed.weight")
    num_queries, _ = shapes.matrix("refpoint_embed.weight")
    shapes.matrix("label_enc.weight")
    encoder = []
    for i in range(shapes.count("transformer.encoder.layers")):
        layer = f"transformer.encoder.layers.{i}"
        stacked, _ = shapes.matrix(f"{layer}.self_attn.in_proj_weight")
        encoder.append((stacked // 3, shapes.matrix(f"{layer}.linear1.weight")[0]))
    decoder = []
    for i in range(shapes.count("transformer.decoder.layers")):
        layer = f"transformer.decoder.layers.{i}"
        rows = [shapes.matrix(f"{layer}.{name}.weight")[0] for name in ("sa_v_proj", "ca_v_proj", "linear1")]
        decoder.append((rows[0], rows[1], rows[2]))
    widest = max([ffn for _, ffn in encoder] + [ffn for _, _, ffn in decoder])
    prelu = "transformer.encoder.layers.0.activation.weight" in state
    options: dict[str, Any] = {
        "num_classes": classes,
        "backbone": _backbone(state),
        "dilation": shapes.argument("dilation", bool, False),
        "hidden_dim": hidden_dim,
        "heads": shapes.argument("nheads", int, 8),
        "enc_layers": len(encoder),
        "dec_layers": len(decoder),
        # A slim file no longer says how wide the dense FFN was; the published one is 2048.
        "ffn_dim": shapes.argument("dim_feedforward", int, max(widest, 2048)),
        "num_queries": num_queries,
        "num_patterns": len(state.get("transformer.patterns.weight", ())),
        "activation": "prelu" if prelu else shapes.argument("transformer_activation", str, "relu"),
        "temperature_h": shapes.argument("pe_temperatureH", float, 20.0),
        "temperature_w": shapes.argument("pe_temperatureW", float, 20.0),
        "dropout": shapes.argument("dropout", float, 0.0),
        "pre_norm": "transformer.encoder.norm.weight" in state,
        "random_refpoints_xy": shapes.argument("random_refpoints_xy", bool, False),
    }
    return DNDETROptions.from_dict({**options, **overrides}), Cfgs(tuple(encoder), tuple(decoder))


class _Shapes:
    """The sizes in a state dict and the values in its training arguments, with messages that say what is amiss."""

    def __init__(self, state: State, arguments: Mapping[str, Any], place: str) -> None:
        self.state, self.arguments, self.place = state, arguments, place

    def matrix(self, key: str) -> tuple[int, int]:
        if key not in self.state:
            raise self._foreign(f"it has no {key}")
        shape = self.state[key].shape
        if len(shape) != 2:
            raise self._foreign(f"{key} has shape {list(shape)}, expected a matrix")
        return shape[0], shape[1]

    def count(self, prefix: str) -> int:
        number = _count(self.state, prefix)
        if not number:
            raise self._foreign(f"it has no {prefix}")
        return number

    def argument(self, name: str, kind: Callable[[Any], Any], default: Any) -> Any:
        value = self.arguments.get(name, default)
        try:
            return kind(value)
        except (TypeError, ValueError):
            raise UserError(f"{self.place} was trained with {name} = {value!r}, which is no {kind.__name__}") from None

    def _foreign(self, detail: str) -> UserError:
        name = self.arguments.get("modelname")
        return UserError(f"{self.place} is not a DN-DETR's: {detail}" + (f" (it calls itself {name})" if name else ""))


def _count(state: State, prefix: str) -> int:
    return len({key.removeprefix(prefix + ".").split(".")[0] for key in state if key.startswith(prefix + ".")})


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
