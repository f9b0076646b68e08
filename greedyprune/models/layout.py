"""The sites of a DETR by name, with their dense widths: what a list of its widths is made of."""

from dataclasses import dataclass

from greedyprune.sites.layouts import DetrLayout, Part, Place, Row

# The inner width (basic blocks) or widths (bottlenecks) of every block of a backbone.
Blocks = tuple[tuple[int, ...], ...]
BLOCK_KINDS = ("conv1", "conv2")
QUERIES = "queries"


@dataclass(frozen=True)
class DetrShape:
    """What tells the sites of a DETR and their dense widths.

    Attributes:
        backbone: inner widths of every block, front to back.
        encoder_layers: encoder layers.
        decoder_layers: decoder layers.
        dim: channels of tokens: width of an attention, and of the MLPs' hidden layers.
        ffn_dim: width of an FFN.
        heads: attention heads.
        head_dim: channels of a head, where heads leave whole; 1: channels leave one by one.
        queries: queries, or proposals that go on.
        encoder_mlps: names of the encoder's MLPs.
        decoder_mlps: names of the decoder's MLPs.
        own_heads: every decoder layer has heads of its own; else all have the same.
        two_stage: there is a head for proposals, too; only counts with heads of their own.
    """

    backbone: Blocks
    encoder_layers: int
    decoder_layers: int
    dim: int
    ffn_dim: int
    heads: int
    head_dim: int
    queries: int
    encoder_mlps: tuple[str, ...]
    decoder_mlps: tuple[str, ...]
    own_heads: bool
    two_stage: bool


def mlp_site(part: str, name: str) -> str:
    """Name of the site of an MLP of the encoder or decoder."""
    return f"{part}.{name}"


def box_sites(layer: int | None) -> tuple[str, str]:
    """Names of the two hidden widths of a box head: of the one that layers share, or a layer's own."""
    head = "boxes" if layer is None else f"boxes.{layer}"
    return f"{head}.0", f"{head}.1"


def detr_layout(shape: DetrShape) -> DetrLayout:
    """The list form of a DETR's widths; all names of sites are made here."""
    backbone = Part("backbone", "block", tuple(_block(number, each) for number, each in enumerate(shape.backbone)))
    encoder = Part(
        "encoder", "layer", tuple(_layer(shape, "encoder", i, ("attn",)) for i in range(shape.encoder_layers))
    )
    decoder_layers = (_layer(shape, "decoder", i, ("self", "cross")) for i in range(shape.decoder_layers))
    decoder = Part("decoder", "layer", tuple(decoder_layers), least=1)
    encoder_mlps, decoder_mlps = (
        tuple(Place(mlp_site(part, name), f"{part}: {name}", "", shape.dim) for name in names)
        for part, names in (("encoder", shape.encoder_mlps), ("decoder", shape.decoder_mlps))
    )
    queries = Place(QUERIES, QUERIES, "", shape.queries)
    heads = range(shape.decoder_layers + shape.two_stage) if shape.own_heads else (None,)
    boxes = tuple(
        Place(name, f"box head{'' if head is None else f' {head}'}: hidden layer {index}", "", shape.dim)
        for head in heads
        for index, name in enumerate(box_sites(head))
    )
    dense: dict[str, int] = {}
    for rows, before in ((backbone.rows, ()), (encoder.rows, encoder_mlps), (decoder.rows, (queries, *decoder_mlps))):
        dense |= {place.name: place.full for place in before}
        for row in rows:
            dense |= {row.whole: 1} if row.whole else {}
            dense |= {place.name: place.full for place in row.places}
    dense |= {place.name: place.full for place in boxes}
    return DetrLayout(dense, encoder, decoder, backbone, (*encoder_mlps, queries, *decoder_mlps, *boxes))


def _block(number: int, widths: tuple[int, ...]) -> Row:
    label = f"backbone block {number}"
    pairs = zip(BLOCK_KINDS, widths, strict=False)
    return Row(label, tuple(Place(f"backbone.{number}.{kind}", f"{label}: {kind}", kind, full) for kind, full in pairs))


def _layer(shape: DetrShape, part: str, index: int, attentions: tuple[str, ...]) -> Row:
    name, label = f"{part}.{index}", f"{part} layer {index}"
    whole = shape.head_dim > 1
    grain = shape.head_dim if whole else shape.heads
    words = f"{grain} channels of a head, and heads leave whole here" if whole else f"{grain} heads"
    places = tuple(Place(f"{name}.{kind}", f"{label}: {kind}", kind, shape.dim, grain, words) for kind in attentions)
    ffn = Place(f"{name}.ffn", f"{label}: ffn", "ffn", shape.ffn_dim)
    return Row(label, (*places, ffn), name, box_sites(index) if part == "decoder" and shape.own_heads else ())
