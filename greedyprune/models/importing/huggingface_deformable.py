"""Deformable DETR as HuggingFace `transformers` saves it.

The arithmetic is the same; HuggingFace's dropout, 0.1 unless configured, is left out.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.models.importing.config import Config
from greedyprune.models.importing.huggingface_config import (
    check_activation,
    check_backbone,
    check_halves,
    is_dilated,
)
from greedyprune.models.importing.huggingface_parts import rename
from greedyprune.models.importing.infer import infer_shape
from greedyprune.models.importing.wrapped import State
from greedyprune.models.options import DeformableOptions, DetectorOptions
from greedyprune.ranges import shown

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


def convert_deformable(state: Mapping[str, Tensor], config: Config) -> tuple[DetectorOptions, dict[str, int], State]:
    """Options, widths and weights of what answers as a HuggingFace `DeformableDetrForObjectDetection` does.

    Args:
        state: its state dict, from `model.safetensors`.
        config: its `config.json`.

    Returns:
        Deformable DETR's options, its widths, which are not the config's where it was pruned, and its state dict.

    Raises:
        UserError: it is another model, uses a setting that Deformable DETR has not, or the config is not of these
            weights.
    """
    two_stage = config.flag("two_stage")
    arguments, overrides = _read_config(config)
    converted = rename(state, _WHOLE, _LAYERS, "Deformable DETR")
    _repeat_heads(converted, config.count("decoder_layers", 6) + two_stage)
    if two_stage:
        overrides["num_queries"] = config.count("two_stage_num_proposals", 300)
    options, widths = infer_shape(converted, arguments, overrides, "the HuggingFace model")
    found = cast(DeformableOptions, options)
    sizes = {
        "d_model": found.hidden_dim,
        "encoder_layers": found.enc_layers,
        "decoder_layers": found.dec_layers,
        "num_feature_levels": found.num_feature_levels,
        "encoder_n_points": found.enc_n_points,
        "decoder_n_points": found.dec_n_points,
    }
    config.agree(sizes if two_stage else {**sizes, "num_queries": found.num_queries})
    return options, widths, converted


def _read_config(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the tensors do not tell, as training arguments and as options.

    Raises:
        UserError: something that Deformable DETR cannot express.
    """
    config.need(_NEEDED)
    activation = check_activation(config, "relu", _ACTIVATIONS)
    check_halves(config, "Deformable DETR", ffn=1024)
    backbone = check_backbone(config)
    levels = config.count("num_feature_levels", 4)
    wanted = [f"stage{stage}" for stage in (2, 3, 4)[-min(levels, 3) :]]
    indices = [f"stage{shown(index)}" for index in backbone.listed("out_indices")]
    found = list(map(str, backbone.listed("out_features"))) or indices or wanted
    if found != wanted:
        raise UserError(
            f"{config.place}: {', '.join(found)} of the backbone are read; {levels} levels need {', '.join(wanted)}"
        )
    arguments = {
        "nheads": config.count("encoder_attention_heads", 8),
        "dim_feedforward": config.count("encoder_ffn_dim", 1024),
    }
    return arguments, {
        "dilation": is_dilated(config, backbone),
        "activation": activation,
        "with_box_refine": config.flag("with_box_refine"),
    }


def _repeat_heads(state: State, count: int) -> None:
    """Write tied heads, of which the file may hold the first alone, under every name, in place."""
    for key in [key for key in state if re.match(r"(class|bbox)_embed\.0\.", key)]:
        head, _, rest = key.split(".", 2)
        for index in range(1, count):
            state.setdefault(f"{head}.{index}.{rest}", state[key])
