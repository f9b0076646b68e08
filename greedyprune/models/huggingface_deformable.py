"""Deformable DETR as HuggingFace `transformers` saves it.

The arithmetic is the same; HuggingFace's dropout, 0.1 unless configured, is left out.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.models.huggingface_parts import (
    check_backbone,
    check_halves,
    is_dilated,
    need,
    rename,
)
from greedyprune.models.infer import infer_shape
from greedyprune.models.wrapped import State

_WHOLE = {
    "class_embed": "class_embed",
    "bbox_embed": "bbox_embed",
    "model.decoder.class_embed": "class_embed",  # the same tensors: the two are tied
    "model.decoder.bbox_embed": "bbox_embed",
    "model.query_position_embeddings": "query_embed",
    "model.input_proj": "input_proj",
    "model.reference_points": "transformer.reference_points",
    "model.level_embed": "transformer.level_embed",
    "model.enc_output": "transformer.enc_output",
    "model.enc_output_norm": "transformer.enc_output_norm",
    "model.pos_trans": "transformer.pos_trans",
    "model.pos_trans_norm": "transformer.pos_trans_norm",
}
_FFN = {"fc1": "linear1", "fc2": "linear2", "mlp.fc1": "linear1", "mlp.fc2": "linear2"}
_DEFORMABLE = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
_LAYERS = {
    "encoder": {
        **_FFN,
        **{f"self_attn.{name}": f"self_attn.{name}" for name in _DEFORMABLE},
        "self_attn_layer_norm": "norm1",
        "final_layer_norm": "norm2",
    },
    "decoder": {
        **_FFN,
        **{f"encoder_attn.{name}": f"cross_attn.{name}" for name in _DEFORMABLE},
        "self_attn.q_proj": "self_attn.q",  # stacked into in_proj then
        "self_attn.k_proj": "self_attn.k",
        "self_attn.v_proj": "self_attn.v",
        "self_attn.out_proj": "self_attn.out_proj",
        "self_attn.o_proj": "self_attn.out_proj",
        "self_attn_layer_norm": "norm2",
        "encoder_attn_layer_norm": "norm1",
        "final_layer_norm": "norm3",
    },
}
# Settings that change the arithmetic: name, the value that is needed, where that is unset.
_NEEDED = (("position_embedding_type", "sine", "sine"),)
_ACTIVATIONS = ("relu", "gelu")


def convert_deformable(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[dict[str, Any], State]:
    """Options and weights of the detector that answers as a HuggingFace `DeformableDetrForObjectDetection` does.

    Args:
        state: its state dict, from `model.safetensors`.
        config: its `config.json`.

    Returns:
        Options for `build_model("deformable_detr", **options)`, and a state dict for `load_checkpoint`.

    Raises:
        UserError: it is another model, or uses a setting that Deformable DETR has not.
    """
    two_stage = bool(config.get("two_stage"))
    dilation = _check_config(config)
    converted = rename(state, _WHOLE, _LAYERS, "Deformable DETR")
    _repeat_heads(converted, int(config.get("decoder_layers", 6)) + two_stage)
    known = {"nheads": "encoder_attention_heads", "dim_feedforward": "encoder_ffn_dim"}
    arguments = {ours: config[theirs] for ours, theirs in known.items() if theirs in config}
    overrides = {
        "dilation": dilation,
        "activation": config.get("activation_function", "relu"),
        "with_box_refine": bool(config.get("with_box_refine")),
    }
    if two_stage:
        overrides["num_queries"] = config.get("two_stage_num_proposals", 300)
    options, _ = infer_shape(converted, arguments, overrides, "the HuggingFace model")
    return options.to_dict(), converted


def _check_config(config: Mapping[str, Any]) -> bool:
    """Refuse what Deformable DETR cannot express; return whether the backbone is dilated."""
    need(config, _NEEDED, "config.json")
    activation = config.get("activation_function", "relu")
    if activation not in _ACTIVATIONS:
        raise UserError(f"config.json: activation_function is {activation!r}; {' and '.join(_ACTIVATIONS)} can be")
    check_halves(config, "Deformable DETR", ffn=1024)
    backbone = check_backbone(config)
    levels = int(config.get("num_feature_levels", 4))
    wanted = [2, 3, 4][-min(levels, 3) :]
    stages = [int(str(stage).removeprefix("stage")) for stage in backbone.get("out_features") or ()]
    found = list(stages or backbone.get("out_indices") or wanted)
    if found != wanted:
        raise UserError(f"config.json: the backbone's stages {found} are read; {levels} levels need {wanted}")
    return is_dilated(config, backbone)


def _repeat_heads(state: State, count: int) -> None:
    """Write tied heads, of which the file may hold the first alone, under every name, in place."""
    for key in [key for key in state if re.match(r"(class|bbox)_embed\.0\.", key)]:
        head, _, rest = key.split(".", 2)
        for index in range(1, count):
            state.setdefault(f"{head}.{index}.{rest}", state[key])
