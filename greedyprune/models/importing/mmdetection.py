"""MMDetection's names of tensors (mmdet 3): Deformable DETR in all its forms, and DAB-DETR.

The arithmetic is that of the published code. What MMDetection's models lack of this project's is filled in: biases of
convolutions before a group norm (zeros), and the label embedding that makes a DAB-DETR a DN-DETR.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.models.importing.label_embedding import label_embedding
from greedyprune.models.importing.wrapped import State

_HEAD = "bbox_head."  # of every detector of MMDetection, and of no other
_OLD = "bbox_head.transformer."  # of versions before 3
_BACKBONE = re.compile(r"backbone\.((?:layer\d+\.\d+\.)?(?:(?:conv|bn)\d|downsample\.[01])\.\w+)")
_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+?)[._](weight|bias)")
_NECK = re.compile(r"neck\.(convs|extra_convs)\.(\d+)\.(conv|gn)\.(weight|bias)")
_FFN = {"ffn.layers.0.0": "linear1", "ffn.layers.0.1": "activation", "ffn.layers.1": "linear2"}
_DEFORMABLE = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
_PACKED = {
    "self_attn.attn.in_proj": "self_attn.in_proj",
    "self_attn.attn.out_proj": "self_attn.out_proj",
}
_DEFORMABLE_LAYERS = {
    "encoder": {
        **_FFN,
        **{f"self_attn.{name}": f"self_attn.{name}" for name in _DEFORMABLE},
        "norms.0": "norm1",
        "norms.1": "norm2",
    },
    "decoder": {
        **_FFN,
        **_PACKED,
        **{f"cross_attn.{name}": f"cross_attn.{name}" for name in _DEFORMABLE},
        # The published code numbers norms by when they were written, MMDetection by when they are computed.
        "norms.0": "norm2",
        "norms.1": "norm1",
        "norms.2": "norm3",
    },
}
_DEFORMABLE_WHOLE = {
    r"level_embed": "transformer.level_embed",
    r"query_embedding\.(weight)": r"query_embed.\1",
    r"reference_points_fc\.(\w+)": r"transformer.reference_points.\1",
    r"memory_trans_fc\.(\w+)": r"transformer.enc_output.\1",
    r"memory_trans_norm\.(\w+)": r"transformer.enc_output_norm.\1",
    r"pos_trans_fc\.(\w+)": r"transformer.pos_trans.\1",
    r"pos_trans_norm\.(\w+)": r"transformer.pos_trans_norm.\1",
    r"bbox_head\.cls_branches\.(\d+)\.(\w+)": r"class_embed.\1.\2",
    r"bbox_head\.reg_branches\.(\d+)\.0\.(\w+)": r"bbox_embed.\1.layers.0.\2",
    r"bbox_head\.reg_branches\.(\d+)\.2\.(\w+)": r"bbox_embed.\1.layers.1.\2",
    r"bbox_head\.reg_branches\.(\d+)\.4\.(\w+)": r"bbox_embed.\1.layers.2.\2",
}
_CONDITIONAL = ("qcontent_proj", "qpos_proj", "kcontent_proj", "kpos_proj", "v_proj")
_DAB_LAYERS = {
    "encoder": {**_FFN, **_PACKED, "norms.0": "norm1", "norms.1": "norm2"},
    "decoder": {
        **_FFN,
        **{f"self_attn.{name}": f"sa_{name}" for name in _CONDITIONAL},
        **{f"cross_attn.{name}": f"ca_{name}" for name in (*_CONDITIONAL, "qpos_sine_proj")},
        **{f"{attention}.out_proj": f"{attention}.out_proj" for attention in ("self_attn", "cross_attn")},
        **{f"norms.{index}": f"norm{index + 1}" for index in range(3)},
    },
}
_DAB_WHOLE = {
    r"query_embedding\.(weight)": r"refpoint_embed.\1",
    r"patterns\.(weight)": r"transformer.patterns.\1",
    r"neck\.convs\.0\.conv\.(\w+)": r"input_proj.\1",
    r"encoder\.(query_scale\..+)": r"transformer.encoder.\1",
    r"decoder\.((?:query_scale|ref_point_head|ref_anchor_head)\..+)": r"transformer.decoder.\1",
    r"decoder\.post_norm\.(\w+)": r"transformer.decoder.norm.\1",
    r"bbox_head\.fc_cls\.(\w+)": r"class_embed.\1",
    r"bbox_head\.fc_reg\.(layers\.\d+\.\w+)": r"bbox_embed.\1",
}


def is_mmdetection(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is of a detector of MMDetection."""
    return any(key.startswith(_HEAD) for key in state)


def is_deformable(state: Mapping[str, Tensor]) -> bool:
    """Whether MMDetection's state dict is of a Deformable DETR; else it can only be a DAB-DETR's."""
    return any(key.endswith("cross_attn.sampling_offsets.weight") for key in state)


def convert_mmdetection(state: Mapping[str, Tensor]) -> State:
    """The state dict under the published code's names.

    Raises:
        UserError: it is of another detector, or of a version before 3: names the first tensor without a name here.
    """
    deformable = is_deformable(state)
    levels = sum(re.fullmatch(r"neck\.convs\.\d+\.conv\.weight", key) is not None for key in state)
    converted: State = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = _rename(key, deformable, levels)
        if name is None:
            hint = ""
            if key.startswith(_OLD):
                hint = "; it is of a version before 3, whose tools/model_converters of MMDetection 3 make one of 3"
            raise UserError(f"it has {key}, which neither Deformable DETR nor DAB-DETR of MMDetection 3 has{hint}")
        converted[name] = value
    _fill(converted, deformable)
    return converted


def _rename(key: str, deformable: bool, levels: int) -> str | None:
    """The published name of a tensor; None: it has none.

    Args:
        key: MMDetection's.
        deformable: the model is a Deformable DETR, else a DAB-DETR.
        levels: maps of the backbone that are projected.
    """
    if match := _BACKBONE.fullmatch(key):
        return f"backbone.0.body.{match[1]}"
    if match := _LAYER.fullmatch(key):
        part, index, name, kind = match.groups()
        ours = (_DEFORMABLE_LAYERS if deformable else _DAB_LAYERS)[part].get(name)
        # What torch packs of several projections is no module of its own.
        return ours and f"transformer.{part}.layers.{index}.{ours}{'_' if ours.endswith('in_proj') else '.'}{kind}"
    if deformable and (match := _NECK.fullmatch(key)):
        level = int(match[2]) + (levels if match[1] == "extra_convs" else 0)
        return f"input_proj.{level}.{0 if match[3] == 'conv' else 1}.{match[4]}"
    for theirs, ours in (_DEFORMABLE_WHOLE if deformable else _DAB_WHOLE).items():
        if match := re.fullmatch(theirs, key):
            return match.expand(ours)
    return None


def _fill(state: State, deformable: bool) -> None:
    """Add what the model lacks, in place."""
    if not deformable:
        if (heads := state.get("class_embed.weight")) is not None and heads.dim() == 2:
            state["label_enc.weight"] = label_embedding(*heads.shape)
        return
    for key in [key for key in state if re.fullmatch(r"input_proj\.\d+\.0\.weight", key)]:
        state.setdefault(f"{key.removesuffix('weight')}bias", torch.zeros(state[key].shape[:1]))
