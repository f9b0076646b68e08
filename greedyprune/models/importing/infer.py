"""The options and widths that a published state dict's tensors tell."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from greedyprune.errors import UserError
from greedyprune.models.backbone import dense_widths
from greedyprune.models.importing.sizes import Sizes
from greedyprune.models.importing.wrapped import State
from greedyprune.models.options import (
    DeformableOptions,
    DetectorOptions,
    DNDeformableEncoderOptions,
    DNDeformableOptions,
    DNDETROptions,
)
from greedyprune.models.widths import read_widths
from greedyprune.ranges import COUNT

Found = dict[str, Any]


def infer_shape(
    state: State, arguments: Mapping[str, Any], overrides: Mapping[str, Any], place: str = "the state dict"
) -> tuple[DetectorOptions, dict[str, int]]:
    """Options and widths of the detector that a converted state dict belongs to.

    What tensors cannot tell (heads, temperatures, dilation) comes from the training arguments stored beside them,
    else from the published defaults.

    Args:
        state: converted keys.
        arguments: the published code's own training arguments, may be empty.
        overrides: options that the caller knows better.
        place: where it was read, for messages.

    Raises:
        UserError: it is no detector's state dict.
    """
    if any(key.endswith(("query_refpoint_embeddings.weight", "query_position_embeddings.weight")) for key in state):
        raise UserError(f"{place} is a HuggingFace model's: convert it with tools/import_hf.py first")
    kind, options, infer = _kind(state, place)
    sizes = Sizes(state, arguments, place, kind)
    shape = options.from_dict({**infer(sizes, overrides), **overrides})
    layers = {part: sizes.layers(part) for part in ("encoder", "decoder")}
    inner = sizes.inner_widths(dense_widths(shape.backbone))
    return shape, read_widths(shape, inner, shape.num_queries, layers, sizes.rows, f"{place}: its tensors")


def _kind(state: State, place: str) -> tuple[str, type[DetectorOptions], Callable[[Sizes, Mapping[str, Any]], Found]]:
    """What the detector is called, its options, and what reads them from its tensors."""
    if "transformer.level_embed" not in state:
        return "DN-DETR", DNDETROptions, _dn_detr
    if not _in_decoder(state, "cross_attn.sampling_offsets.weight"):
        return "DN-DETR with a deformable encoder", DNDeformableEncoderOptions, _deformable_encoder
    if "transformer.decoder.ref_point_head.layers.0.weight" in state:
        return "DN-Deformable-DETR", DNDeformableOptions, _dn_deformable
    return "Deformable DETR", DeformableOptions, _deformable


def _in_decoder(state: State, name: str) -> bool:
    """Whether some decoder layer has a tensor of this name."""
    return any(re.fullmatch(rf"transformer\.decoder\.layers\.\d+\.{re.escape(name)}", key) for key in state)


def _dn_detr(sizes: Sizes, overrides: Mapping[str, Any]) -> Found:
    sizes.matrix("class_embed.weight")  # what a foreign file most plainly lacks
    return _dab(sizes) | {"pre_norm": "transformer.encoder.norm.weight" in sizes.state}


def _deformable_encoder(sizes: Sizes, overrides: Mapping[str, Any]) -> Found:
    found = _dab(sizes) | {"level_attention": _in_decoder(sizes.state, "lvl_attn.weight")}
    return found | _pyramid(sizes, {**found, **overrides})


def _dn_deformable(sizes: Sizes, overrides: Mapping[str, Any]) -> Found:
    sizes.matrix("label_enc.weight")
    found = _common(sizes, _classes(sizes), 2048)
    two_stage = "transformer.enc_output.weight" in sizes.state
    # The training arguments hold temperatures of the position embedding that this model does not read.
    found |= _deformable_points(sizes, {**found, **overrides})
    return found | {
        "two_stage": two_stage,
        "num_queries": _num_queries(sizes, two_stage, "refpoint_embed.weight"),
        "random_refpoints_xy": sizes.argument("random_refpoints_xy", bool, False),
    }


def _deformable(sizes: Sizes, overrides: Mapping[str, Any]) -> Found:
    found = _common(sizes, _classes(sizes), 1024)
    two_stage = "transformer.enc_output.weight" in sizes.state
    found |= _deformable_points(sizes, {**found, **overrides})
    return found | {
        "two_stage": two_stage,
        "with_box_refine": two_stage or _own_heads(sizes.state),
        "num_queries": _num_queries(sizes, two_stage, "query_embed.weight"),
    }


def _classes(sizes: Sizes) -> int:
    """Rows of the class heads of decoder layers, of which the first may be gone with its layer."""
    return sizes.rows(f"class_embed.{sizes.layers('decoder')[0]}.weight")


def _common(sizes: Sizes, classes: int, published_ffn: int) -> Found:
    """Options of every detector."""
    encoder, decoder = sizes.layers("encoder"), sizes.layers("decoder")
    first = f"transformer.encoder.layers.{encoder[0]}"
    ffns = [f"transformer.encoder.layers.{layer}.linear1.weight" for layer in encoder]
    ffns += [f"transformer.decoder.layers.{layer}.linear1.weight" for layer in decoder]
    prelu = f"{first}.activation.weight" in sizes.state
    return {
        "num_classes": classes,
        "backbone": sizes.backbone(),
        "dilation": sizes.argument("dilation", bool, False),
        "hidden_dim": sizes.matrix(f"{first}.linear1.weight")[1],
        "heads": sizes.argument("nheads", int, 8),
        "enc_layers": encoder[-1] + 1,
        "dec_layers": decoder[-1] + 1,
        # A slim file no longer says how wide the dense FFN was.
        "ffn_dim": sizes.argument("dim_feedforward", int, max(published_ffn, *map(sizes.rows, ffns))),
        "activation": "prelu" if prelu else "relu",
        "dropout": sizes.argument("dropout", float, 0.0),
    }


def _dab(sizes: Sizes) -> Found:
    """Options of detectors with DAB-DETR's decoder."""
    classes, _ = sizes.matrix("class_embed.weight")
    queries = sizes.rows("refpoint_embed.weight")
    sizes.matrix("label_enc.weight")
    patterns = "transformer.patterns.weight"
    found = _common(sizes, classes, 2048)
    if found["activation"] == "relu":
        found["activation"] = sizes.argument("transformer_activation", str, "relu")
    return {
        **found,
        "temperature_h": sizes.argument("pe_temperatureH", float, 20.0),
        "temperature_w": sizes.argument("pe_temperatureW", float, 20.0),
        "num_queries": queries,
        "num_patterns": sizes.rows(patterns) if patterns in sizes.state else 0,
        "random_refpoints_xy": sizes.argument("random_refpoints_xy", bool, False),
    }


def _pyramid(sizes: Sizes, found: Mapping[str, Any]) -> Found:
    """Options of a deformable encoder."""
    levels, first = sizes.rows("transformer.level_embed"), sizes.layers("encoder")[0]
    return {
        "num_feature_levels": levels,
        "enc_n_points": _places(sizes, found, f"transformer.encoder.layers.{first}.self_attn") // levels,
    }


def _deformable_points(sizes: Sizes, found: Mapping[str, Any]) -> Found:
    """Options of a deformable encoder and decoder."""
    pyramid = _pyramid(sizes, found)
    places = _places(sizes, found, f"transformer.decoder.layers.{sizes.layers('decoder')[0]}.cross_attn")
    return pyramid | {"dec_n_points": places // pyramid["num_feature_levels"]}


def _places(sizes: Sizes, found: Mapping[str, Any], attention: str) -> int:
    """Points that a head samples in all levels; with whole heads, a slim attention has fewer heads than its model."""
    heads = found["heads"]
    COUNT.check(heads, "option heads")
    if found.get("whole_heads"):
        # At least one, however narrow a damaged file says it is.
        heads = max(sizes.rows(f"{attention}.value_proj.weight") * heads // found["hidden_dim"], 1)
    return sizes.rows(f"{attention}.attention_weights.weight") // heads


def _num_queries(sizes: Sizes, two_stage: bool, table: str) -> int:
    """A table has a row for every query; how many proposals go on is no tensor's size."""
    return sizes.argument("num_queries", int, 300) if two_stage else sizes.rows(table)


def _own_heads(state: State) -> bool:
    """Whether decoder layers have heads of their own: shared ones are published under every name."""
    heads = [tensor for key, tensor in state.items() if re.fullmatch(r"bbox_embed\.\d+\.layers\.0\.weight", key)]
    return any(not torch.equal(heads[0], other) for other in heads)
