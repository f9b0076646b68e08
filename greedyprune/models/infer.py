"""The options and widths that a published state dict's tensors tell."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from greedyprune.cfgs import Cfgs
from greedyprune.errors import UserError
from greedyprune.models.backbone import dense_widths
from greedyprune.models.options import (
    DeformableOptions,
    DetectorOptions,
    DNDeformableEncoderOptions,
    DNDeformableOptions,
    DNDETROptions,
)
from greedyprune.models.sizes import Sizes
from greedyprune.models.wrapped import State
from greedyprune.ranges import COUNT

Found = tuple[dict[str, Any], Cfgs]


def infer_shape(
    state: State, arguments: Mapping[str, Any], overrides: Mapping[str, Any], place: str = "the state dict"
) -> tuple[DetectorOptions, Cfgs]:
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
    found, cfgs = infer(sizes, overrides)
    shape = options.from_dict({**found, **overrides})
    return shape, replace(cfgs, backbone=sizes.inner_widths(dense_widths(shape.backbone)))


def _kind(state: State, place: str) -> tuple[str, type[DetectorOptions], Callable[[Sizes, Mapping[str, Any]], Found]]:
    """What the detector is called, its options, and what reads them from its tensors."""
    if "transformer.level_embed" not in state:
        return "DN-DETR", DNDETROptions, _dn_detr
    if "transformer.decoder.layers.0.cross_attn.sampling_offsets.weight" not in state:
        if "transformer.decoder.layers.0.lvl_attn.weight" in state:
            raise UserError(f"{place} has a decoder that weighs levels against each other, which no model here has")
        return "DN-DETR with a deformable encoder", DNDeformableEncoderOptions, _deformable_encoder
    if "transformer.decoder.ref_point_head.layers.0.weight" in state:
        return "DN-Deformable-DETR", DNDeformableOptions, _dn_deformable
    return "Deformable DETR", DeformableOptions, _deformable


def _dn_detr(sizes: Sizes, overrides: Mapping[str, Any]) -> Found:
    sizes.matrix("class_embed.weight")  # what a foreign file most plainly lacks
    encoder = _encoder_widths(sizes, "self_attn.in_proj_weight", 3)
    found = _dab(sizes, encoder) | {"pre_norm": "transformer.encoder.norm.weight" in sizes.state}
    return found, Cfgs(encoder, _dab_widths(sizes))


def _deformable_encoder(sizes: Sizes, overrides: Mapping[str, Any]) -> Found:
    encoder = _encoder_widths(sizes, "self_attn.value_proj.weight")
    found = _dab(sizes, encoder)
    return found | _pyramid(sizes, {**found, **overrides}), Cfgs(encoder, _dab_widths(sizes))


def _dn_deformable(sizes: Sizes, overrides: Mapping[str, Any]) -> Found:
    sizes.matrix("label_enc.weight")
    encoder, decoder = _deformable_widths(sizes)
    found = _common(sizes, encoder, decoder, sizes.rows("class_embed.0.weight"), 2048)
    two_stage = "transformer.enc_output.weight" in sizes.state
    # The training arguments hold temperatures of the position embedding that this model does not read.
    found |= _deformable_points(sizes, {**found, **overrides})
    return found | {
        "two_stage": two_stage,
        "num_queries": _num_queries(sizes, two_stage, "refpoint_embed.weight"),
        "random_refpoints_xy": sizes.argument("random_refpoints_xy", bool, False),
    }, Cfgs(encoder, decoder)


def _deformable(sizes: Sizes, overrides: Mapping[str, Any]) -> Found:
    encoder, decoder = _deformable_widths(sizes)
    found = _common(sizes, encoder, decoder, sizes.rows("class_embed.0.weight"), 1024)
    two_stage = "transformer.enc_output.weight" in sizes.state
    found |= _deformable_points(sizes, {**found, **overrides})
    return found | {
        "two_stage": two_stage,
        "with_box_refine": two_stage or _own_heads(sizes.state),
        "num_queries": _num_queries(sizes, two_stage, "query_embed.weight"),
    }, Cfgs(encoder, decoder)


def _encoder_widths(sizes: Sizes, attention: str, stacked: int = 1) -> tuple[tuple[int, int], ...]:
    layers = [f"transformer.encoder.layers.{i}" for i in range(sizes.count("transformer.encoder.layers"))]
    return tuple(
        (sizes.rows(f"{layer}.{attention}") // stacked, sizes.rows(f"{layer}.linear1.weight")) for layer in layers
    )


def _dab_widths(sizes: Sizes) -> tuple[tuple[int, int, int], ...]:
    layers = [f"transformer.decoder.layers.{i}" for i in range(sizes.count("transformer.decoder.layers"))]
    return tuple(
        (
            sizes.rows(f"{layer}.sa_v_proj.weight"),
            sizes.rows(f"{layer}.ca_v_proj.weight"),
            sizes.rows(f"{layer}.linear1.weight"),
        )
        for layer in layers
    )


def _deformable_widths(sizes: Sizes) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int, int], ...]]:
    layers = [f"transformer.decoder.layers.{i}" for i in range(sizes.count("transformer.decoder.layers"))]
    decoder = tuple(
        (
            sizes.rows(f"{layer}.self_attn.in_proj_weight") // 3,
            sizes.rows(f"{layer}.cross_attn.value_proj.weight"),
            sizes.rows(f"{layer}.linear1.weight"),
        )
        for layer in layers
    )
    return _encoder_widths(sizes, "self_attn.value_proj.weight"), decoder


def _common(
    sizes: Sizes,
    encoder: tuple[tuple[int, int], ...],
    decoder: tuple[tuple[int, int, int], ...],
    classes: int,
    published_ffn: int,
) -> dict[str, Any]:
    """Options of every detector."""
    widest = max([ffn for _, ffn in encoder] + [ffn for _, _, ffn in decoder])
    prelu = "transformer.encoder.layers.0.activation.weight" in sizes.state
    return {
        "num_classes": classes,
        "backbone": sizes.backbone(),
        "dilation": sizes.argument("dilation", bool, False),
        "hidden_dim": sizes.matrix("transformer.encoder.layers.0.linear1.weight")[1],
        "heads": sizes.argument("nheads", int, 8),
        "enc_layers": len(encoder),
        "dec_layers": len(decoder),
        # A slim file no longer says how wide the dense FFN was.
        "ffn_dim": sizes.argument("dim_feedforward", int, max(widest, published_ffn)),
        "activation": "prelu" if prelu else "relu",
        "dropout": sizes.argument("dropout", float, 0.0),
    }


def _dab(sizes: Sizes, encoder: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """Options of detectors with DAB-DETR's decoder."""
    classes, _ = sizes.matrix("class_embed.weight")
    queries = sizes.rows("refpoint_embed.weight")
    sizes.matrix("label_enc.weight")
    patterns = "transformer.patterns.weight"
    found = _common(sizes, encoder, _dab_widths(sizes), classes, 2048)
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


def _pyramid(sizes: Sizes, found: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a deformable encoder."""
    levels = sizes.rows("transformer.level_embed")
    return {
        "num_feature_levels": levels,
        "enc_n_points": _places(sizes, found, "transformer.encoder.layers.0.self_attn") // levels,
    }


def _deformable_points(sizes: Sizes, found: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a deformable encoder and decoder."""
    pyramid = _pyramid(sizes, found)
    places = _places(sizes, found, "transformer.decoder.layers.0.cross_attn")
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
    first, others = state.get("bbox_embed.0.layers.0.weight"), []
    for key, tensor in state.items():
        if key.startswith("bbox_embed.") and key.endswith(".layers.0.weight"):
            others.append(tensor)
    return first is not None and any(not torch.equal(first, other) for other in others)
