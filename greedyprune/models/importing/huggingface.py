"""DAB-DETR as HuggingFace `transformers` saves it, as this project's DN-DETR.

DN-DETR is DAB-DETR whose queries' content comes from a label embedding, which the import gets (see `label_embedding`).

Where HuggingFace's arithmetic differs from the published one, the published one is kept:

- its inverse sigmoid cuts off at 1e-5, the published one (with which the weights were trained) at 1e-3: answers of
  queries whose box has a centre or size within 1e-3 of 0 or 1 differ slightly, all others agree;
- its dropout, 0.1 unless configured, is left out; the published models were trained without.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.models.importing.config import Config
from greedyprune.models.importing.huggingface_config import (
    check_activation,
    check_backbone,
    check_halves,
    class_names,
    image_sides,
    is_dilated,
)
from greedyprune.models.importing.huggingface_parts import rename
from greedyprune.models.importing.infer import infer_shape
from greedyprune.models.importing.label_embedding import label_embedding
from greedyprune.models.importing.wrapped import State
from greedyprune.models.layers import ACTIVATIONS
from greedyprune.models.options import DetectorOptions, DNDETROptions, ModelInfo
from greedyprune.ranges import POSITIVE, shown

_WHOLE = {
    "class_embed": "class_embed",
    "bbox_predictor": "bbox_embed",
    "model.decoder.bbox_embed": "bbox_embed",  # the same tensors: the two are tied
    "model.query_refpoint_embeddings": "refpoint_embed",
    "model.input_projection": "input_proj",
    "model.patterns": "transformer.patterns",
    "model.encoder.query_scale": "transformer.encoder.query_scale",
    "model.decoder.query_scale": "transformer.decoder.query_scale",
    "model.decoder.ref_point_head": "transformer.decoder.ref_point_head",
    "model.decoder.ref_anchor_head": "transformer.decoder.ref_anchor_head",
    "model.decoder.layernorm": "transformer.decoder.norm",
}
_ENCODER_LAYER = {
    "self_attn.q_proj": "self_attn.q",  # stacked into in_proj then
    "self_attn.k_proj": "self_attn.k",
    "self_attn.v_proj": "self_attn.v",
    "self_attn.out_proj": "self_attn.out_proj",
    "self_attn_layer_norm": "norm1",
    "fc1": "linear1",
    "fc2": "linear2",
    "activation_fn": "activation",
    "final_layer_norm": "norm2",
}
_DECODER_LAYER = {
    "self_attn.self_attn_query_content_proj": "sa_qcontent_proj",
    "self_attn.self_attn_query_pos_proj": "sa_qpos_proj",
    "self_attn.self_attn_key_content_proj": "sa_kcontent_proj",
    "self_attn.self_attn_key_pos_proj": "sa_kpos_proj",
    "self_attn.self_attn_value_proj": "sa_v_proj",
    "self_attn.self_attn.output_proj": "self_attn.out_proj",
    "self_attn.self_attn_layer_norm": "norm1",
    "cross_attn.cross_attn_query_content_proj": "ca_qcontent_proj",
    "cross_attn.cross_attn_query_pos_proj": "ca_qpos_proj",
    "cross_attn.cross_attn_key_content_proj": "ca_kcontent_proj",
    "cross_attn.cross_attn_key_pos_proj": "ca_kpos_proj",
    "cross_attn.cross_attn_value_proj": "ca_v_proj",
    "cross_attn.cross_attn_query_pos_sine_proj": "ca_qpos_sine_proj",
    "cross_attn.cross_attn.output_proj": "cross_attn.out_proj",
    "cross_attn.cross_attn_layer_norm": "norm2",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
    "mlp.activation_fn": "activation",
    "mlp.final_layer_norm": "norm3",
}
_LAYERS = {"encoder": _ENCODER_LAYER, "decoder": _DECODER_LAYER}
# Settings that change the arithmetic and that DN-DETR does not have: name, the value it needs, where that is unset.
_NEEDED = (
    ("model_type", "dab-detr", None),
    ("normalize_before", False, False),
    ("keep_query_pos", False, False),
    ("query_dim", 4, 4),
)


def convert_huggingface(state: Mapping[str, Tensor], config: Config) -> tuple[DetectorOptions, dict[str, int], State]:
    """Options, widths and weights of the DN-DETR that answers as a HuggingFace `DabDetrForObjectDetection` does.

    Args:
        state: its state dict, from `model.safetensors`.
        config: its `config.json`.

    Returns:
        DN-DETR's options, its widths, which are not the config's where it was pruned, and its state dict.

    Raises:
        UserError: it is another model, uses a setting that DN-DETR has not, or the config is not of these weights.
    """
    arguments, dilation = _read_config(config)
    converted = rename(state, _WHOLE, _LAYERS, "DAB-DETR")
    if (heads := converted.get("class_embed.weight")) is not None and heads.dim() == 2:
        converted["label_enc.weight"] = label_embedding(*heads.shape)
    options, widths = infer_shape(converted, arguments, {"dilation": dilation}, "the HuggingFace model")
    config.agree(
        {
            "hidden_size": options.hidden_dim,
            "num_queries": options.num_queries,
            "num_patterns": cast(DNDETROptions, options).num_patterns,
            "encoder_layers": options.enc_layers,
            "decoder_layers": options.dec_layers,
        }
    )
    return options, widths, converted


def huggingface_info(config: Config, preprocessor: Config, num_classes: int) -> ModelInfo:
    """What the labels mean, and the image size.

    DAB-DETR's labels are the data set's category ids themselves (for COCO 0 to 90, the unused ones named N/A).

    Args:
        config: `config.json`; its `id2label` names the classes.
        preprocessor: `preprocessor_config.json`; may be empty.
        num_classes: number of labels.
    """
    names = class_names(config, num_classes)
    return ModelInfo(names, tuple(range(num_classes)), **image_sides(preprocessor))


def _read_config(config: Config) -> tuple[dict[str, Any], bool]:
    """What the tensors do not tell, as training arguments, and whether the backbone is dilated.

    Raises:
        UserError: something that DN-DETR cannot express.
    """
    config.need(_NEEDED)
    scale = config.number("sine_position_embedding_scale", POSITIVE, 2 * math.pi)
    if not math.isclose(scale, 2 * math.pi, rel_tol=1e-6):
        raise UserError(f"{config.place}: sine_position_embedding_scale is {scale}, DN-DETR has 2 pi")
    check_halves(config, "DN-DETR", ffn=2048)
    backbone = check_backbone(config)
    last = (backbone.listed("out_features") or ["stage4"])[-1], (backbone.listed("out_indices") or [4])[-1]
    if last[0] != "stage4" or last[1] not in (4, -1):
        raise UserError(
            f"{config.place}: the backbone's last output is {shown(last[0])} ({shown(last[1])}); DN-DETR reads stage4"
        )
    arguments = {
        "nheads": config.count("encoder_attention_heads", 8),
        "dim_feedforward": config.count("encoder_ffn_dim", 2048),
        "transformer_activation": check_activation(config, "prelu", tuple(ACTIVATIONS)),
        "pe_temperatureH": config.number("temperature_height", POSITIVE, 20),
        "pe_temperatureW": config.number("temperature_width", POSITIVE, 20),
        "random_refpoints_xy": config.flag("random_refpoints_xy"),
    }
    return arguments, is_dilated(config, backbone)
