"""The widths that a detector's tensors have."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from greedyprune.models.layout import QUERIES, Blocks, box_sites, mlp_site
from greedyprune.models.options import (
    DeformableOptions,
    DetectorOptions,
    DNDeformableEncoderOptions,
    DNDeformableOptions,
    DNDETROptions,
)

FFN = "linear1.weight"
# Tensors that hold several projections one after another.
_STACKED = {"self_attn.in_proj_weight": 3}
_DEFORMABLE_CROSS = "cross_attn.value_proj.weight"
_CONDITIONAL = ("sa_v_proj.weight", "ca_v_proj.weight")


@dataclass(frozen=True)
class Tensors:
    """Tensors with a row for every channel or query.

    Attributes:
        encoder: of the attention of an encoder layer, by its name there.
        decoder: of the two attentions of a decoder layer.
        queries: of the queries; a second stage has none.
        boxes: the box head, or the list of all.
    """

    encoder: str
    decoder: tuple[str, str]
    queries: str
    boxes: str = "bbox_embed.0"


_TENSORS: dict[type[DetectorOptions], Tensors] = {
    DNDETROptions: Tensors("self_attn.in_proj_weight", _CONDITIONAL, "refpoint_embed.weight", "bbox_embed"),
    DNDeformableEncoderOptions: Tensors(
        "self_attn.value_proj.weight", _CONDITIONAL, "refpoint_embed.weight", "bbox_embed"
    ),
    DNDeformableOptions: Tensors(
        "self_attn.value_proj.weight", ("self_attn.in_proj_weight", _DEFORMABLE_CROSS), "refpoint_embed.weight"
    ),
    DeformableOptions: Tensors(
        "self_attn.value_proj.weight", ("self_attn.in_proj_weight", _DEFORMABLE_CROSS), "query_embed.weight"
    ),
}


def read_widths(
    options: DetectorOptions,
    backbone: Blocks,
    proposals: int,
    layers: Mapping[str, Sequence[int]],
    rows: Callable[[str], int],
    source: str = "the model",
) -> dict[str, int]:
    """The width of every site, from tensors.

    Args:
        options: of the detector.
        backbone: inner widths of every block.
        proposals: queries of a second stage.
        layers: `encoder` and `decoder` -> numbers of the layers that are there.
        rows: number of rows of a tensor, by its name.
        source: what messages call the widths.

    Raises:
        UserError: widths that no model with these options has.
    """
    tensors, layout, shape = _TENSORS[type(options)], options.layout, options.shape
    found: dict[str, int] = {}
    for row, widths in zip(layout.backbone.rows, backbone, strict=True):
        found |= {place.name: width for place, width in zip(row.places, widths, strict=True)}
    for part, names in ((layout.encoder, (tensors.encoder, FFN)), (layout.decoder, (*tensors.decoder, FFN))):
        for index, row in enumerate(part.rows):
            found[row.whole] = int(index in layers[part.name])
            prefix = f"transformer.{part.name}.layers.{index}"
            if found[row.whole]:
                sizes = (rows(f"{prefix}.{name}") // _STACKED.get(name, 1) for name in names)
                found |= {place.name: size for place, size in zip(row.places, sizes, strict=True)}
    for part_name, mlps in (("encoder", shape.encoder_mlps), ("decoder", shape.decoder_mlps)):
        found |= {mlp_site(part_name, mlp): rows(f"transformer.{part_name}.{mlp}.layers.0.weight") for mlp in mlps}
    found[QUERIES] = proposals if shape.two_stage else rows(tensors.queries)
    heads: dict[int | None, str] = {None: tensors.boxes}
    if shape.own_heads:
        own = [*layers["decoder"], *([shape.decoder_layers] if shape.two_stage else [])]
        heads = dict(zip(own, (f"bbox_embed.{head}" for head in own), strict=True))
    for head, module in heads.items():
        found |= {name: rows(f"{module}.layers.{index}.weight") for index, name in enumerate(box_sites(head))}
    return layout.check(found, source)
