"""Small detectors under MMDetection's names of tensors, and files as MMEngine writes them."""

import re
import sys
from types import ModuleType

import numpy as np
import torch

from greedyprune import build_model

COMMON = {"num_classes": 5, "backbone": "resnet18", "enc_layers": 2, "dec_layers": 2, "heads": 4, "num_queries": 7}
DEFORMABLE = {**COMMON, "hidden_dim": 32, "ffn_dim": 48}
KINDS = {
    "plain": ("deformable_detr", {**DEFORMABLE, "num_feature_levels": 4, "enc_n_points": 2}),
    "one level": ("deformable_detr", {**DEFORMABLE, "num_feature_levels": 1}),
    "refined": ("deformable_detr", {**DEFORMABLE, "with_box_refine": True, "dec_n_points": 3}),
    "two-stage": ("deformable_detr", {**DEFORMABLE, "with_box_refine": True, "two_stage": True}),
    "DAB-DETR": ("dn_detr", {**COMMON, "hidden_dim": 32, "ffn_dim": 48, "num_patterns": 2}),
    "DAB-DETR with ReLU": ("dn_detr", {**COMMON, "hidden_dim": 32, "ffn_dim": 48, "activation": "relu"}),
}
# The published names and MMDetection's, in the order in which they are replaced.
SHARED = (
    (r"backbone\.0\.body\.", "backbone."),
    (r"^transformer\.((?:en|de)coder\.)", r"\1"),
    (r"\.linear1\.", ".ffn.layers.0.0."),
    (r"\.linear2\.", ".ffn.layers.1."),
    (r"\.activation\.weight", ".ffn.layers.0.1.weight"),
    (r"(encoder\.layers\.\d+)\.norm1\.", r"\1.norms.0."),
    (r"(encoder\.layers\.\d+)\.norm2\.", r"\1.norms.1."),
)
NAMES = {
    "deformable_detr": (
        *SHARED,
        (r"(decoder\.layers\.\d+)\.norm2\.", r"\1.norms.0."),
        (r"(decoder\.layers\.\d+)\.norm1\.", r"\1.norms.1."),
        (r"(decoder\.layers\.\d+)\.norm3\.", r"\1.norms.2."),
        (r"(decoder\.layers\.\d+\.self_attn)\.", r"\1.attn."),
        (r"^transformer\.(level_embed)", r"\1"),
        (r"^transformer\.reference_points\.", "reference_points_fc."),
        (r"^transformer\.enc_output\.", "memory_trans_fc."),
        (r"^transformer\.enc_output_norm\.", "memory_trans_norm."),
        (r"^transformer\.pos_trans\.", "pos_trans_fc."),
        (r"^transformer\.pos_trans_norm\.", "pos_trans_norm."),
        (r"^query_embed\.", "query_embedding."),
        (r"^class_embed\.", "bbox_head.cls_branches."),
        (r"^bbox_embed\.(\d+)\.layers\.0\.", r"bbox_head.reg_branches.\1.0."),
        (r"^bbox_embed\.(\d+)\.layers\.1\.", r"bbox_head.reg_branches.\1.2."),
        (r"^bbox_embed\.(\d+)\.layers\.2\.", r"bbox_head.reg_branches.\1.4."),
    ),
    "dn_detr": (
        *SHARED,
        (r"(encoder\.layers\.\d+\.self_attn)\.", r"\1.attn."),
        (r"\.sa_(\w+_proj|v_proj)\.", r".self_attn.\1."),
        (r"\.ca_(\w+_proj|v_proj)\.", r".cross_attn.\1."),
        (r"(decoder\.layers\.\d+)\.norm1\.", r"\1.norms.0."),
        (r"(decoder\.layers\.\d+)\.norm2\.", r"\1.norms.1."),
        (r"(decoder\.layers\.\d+)\.norm3\.", r"\1.norms.2."),
        (r"^decoder\.norm\.", "decoder.post_norm."),
        (r"^transformer\.(patterns)\.", r"\1."),
        (r"^refpoint_embed\.", "query_embedding."),
        (r"^input_proj\.", "neck.convs.0.conv."),
        (r"^class_embed\.", "bbox_head.fc_cls."),
        (r"^bbox_embed\.", "bbox_head.fc_reg."),
    ),
}


def randomised(kind):
    """A model of one of KINDS with random weights that an MMDetection model can have."""
    torch.manual_seed(3)
    name, options = KINDS[kind]
    model = build_model(name, **options).eval()
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if not key.startswith("backbone"):
                tensor.add_(torch.randn_like(tensor) * 0.1)  # heads and offsets start as zeros
            if re.fullmatch(r"input_proj\.\d+\.0\.bias", key):
                tensor.zero_()
        if name == "dn_detr":
            model.label_enc.weight[-1].zero_()
    return model


def theirs(model, name):
    """The model's state dict as MMDetection has it."""
    renamed = {}
    for key, value in model.state_dict().items():
        if key.startswith(("label_enc.", "transformer.decoder.bbox_embed.", "transformer.decoder.class_embed.")):
            continue
        if match := re.fullmatch(r"input_proj\.(\d+)\.([01])\.(\w+)", key):
            level, part, kind = int(match[1]), match[2], match[3]
            if part == "0" and kind == "bias":
                continue
            maps = min(model.options.num_feature_levels, 3)
            where = f"extra_convs.{level - maps}" if level >= maps else f"convs.{level}"
            key = f"neck.{where}.{'conv' if part == '0' else 'gn'}.{kind}"
        for pattern, replacement in NAMES[name]:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value.clone()
    counters = [key.replace("running_var", "num_batches_tracked") for key in renamed if key.endswith("running_var")]
    return {**renamed, **{key: torch.tensor(0) for key in counters}}


def save_training(path, state, cfg="", classes=None, ema=None):
    """A file as MMEngine writes it while it trains, with objects of its own classes in `message_hub`."""
    names = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    modules = {name: ModuleType(name) for name in names}
    buffer = modules[names[-1]]
    exec(HISTORY_BUFFER, buffer.__dict__)
    content = {
        "meta": {"epoch": 50, "iter": 1000, "cfg": cfg, "seed": 7, "mmengine_version": "0.10.7"},
        "state_dict": state,
        "message_hub": {
            "log_scalars": {"train/loss": buffer.HistoryBuffer(), "val/map": buffer.HistoryBuffer()},
            "runtime_info": {"cur_iters": 1000, "best": np.float64(0.4), "lr": np.array([1e-4])},
            "resumed_keys": {},
        },
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 2e-4, "params": [0]}]},
        "param_schedulers": [{"milestones": {40: 1}, "by_epoch": True}],
    }
    if classes is not None:
        content["meta"]["dataset_meta"] = {"classes": classes, "palette": [(220, 20, 60)]}
    if ema is not None:
        module = {f"module.{key}": value for key, value in ema.items()}
        content["ema_state_dict"] = {"steps": torch.tensor(9), **module}
    sys.modules.update(modules)
    try:
        torch.save(content, path)
    finally:
        for name in names:
            del sys.modules[name]
    return path


# Methods that objects carry along are pickled as calls of getattr.
HISTORY_BUFFER = """
import numpy
class HistoryBuffer:
    def __init__(self):
        self._log_history = self._count_history = numpy.arange(3.0)
        self._statistics_methods = {"mean": HistoryBuffer.mean}
    def mean(self):
        raise AssertionError("run")
HistoryBuffer.__module__ = "mmengine.logging.history_buffer"
"""
