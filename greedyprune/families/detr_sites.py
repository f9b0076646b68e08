"""The sites of this project's DETRs."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from greedyprune.models.deformable_attention import DeformableAttention, DeformableSelfAttention
from greedyprune.models.detector import Detector
from greedyprune.models.layers import MLP, Attention, PackedSelfAttention, Skipped, present
from greedyprune.models.level_attention import LevelAttention, LevelDecoderLayer
from greedyprune.sites import AttentionSite, CountSite, HiddenSite, Reader, Setting, Site, Slice

FFN_STEP, MLP_STEP, CONV_STEP = 32, 16, 16
QUERY_STEPS = 10  # the queries change by one in so many


def detr_sites(model: Detector) -> Iterator[Site]:
    """The sites of a detector, in the order in which an image meets them, with the widths that it has now."""
    yield from _backbone(model)
    yield from _mlps(model, "encoder", "query_scale")
    for index, _ in present(model.transformer.encoder.layers):
        prefix, layer, label = f"transformer.encoder.layers.{index}", f"encoder.{index}", f"encoder layer {index}"
        yield _layer(layer, label, (prefix,))
        yield _attention(model, layer, "attn", label, prefix, "self_attn")
        yield _ffn(model, layer, label, prefix)
    yield _queries(model)
    yield from _mlps(model, "decoder", "query_scale", "ref_point_head", "ref_anchor_head")
    layers = list(present(model.transformer.decoder.layers))
    for answer, (index, _) in enumerate(layers):
        prefix, layer, label = f"transformer.decoder.layers.{index}", f"decoder.{index}", f"decoder layer {index}"
        heads = [f"{name}.{index}" for name in ("class_embed", "bbox_embed") if _own_heads(model)]
        if len(layers) > 1:  # one must stay
            yield _layer(layer, label, (prefix, *heads), answers=(answer,), one_of="decoder layers")
        yield _attention(model, layer, "self", label, prefix, "self_attn")
        yield _attention(model, layer, "cross", label, prefix, "cross_attn")
        yield _ffn(model, layer, label, prefix)
    yield from _boxes(model)


def _backbone(model: Detector) -> Iterator[Site]:
    for number, (name, block) in enumerate(model.feature_extractor.blocks.items()):
        prefix = f"backbone.0.{name}"
        last = sum(isinstance(child, nn.Conv2d) for child in block.children())
        for index in range(1, last):
            conv, norm, reader = f"{prefix}.conv{index}", f"{prefix}.bn{index}", f"{prefix}.conv{index + 1}"
            yield HiddenSite(
                name=f"backbone.{number}.conv{index}",
                label=f"backbone block {number}: conv{index}",
                part="backbone",
                full=len(model.get_parameter(f"{conv}.weight")),
                step=CONV_STEP,
                # A channel whose batch norm scales by 0 and adds 0 is 0 after the ReLU, whatever the statistics.
                slices=(
                    Slice(f"{conv}.weight", 0, ("hidden",)),
                    *(Slice(f"{norm}.{each}", 0, ("hidden",)) for each in ("weight", "bias")),
                    *(Slice(f"{norm}.{each}", 0, ("statistic",)) for each in ("running_mean", "running_var")),
                    Slice(f"{reader}.weight", 1, ("output",)),
                ),
                readers=(Reader(reader, f"{prefix}.bn{index + 1}"),),
                sort="conv",
                weighted=False,
            )


def _layer(name: str, label: str, modules: tuple[str, ...], answers: tuple[int, ...] = (), one_of: str = "") -> Site:
    return CountSite(
        name=name,
        label=label,
        part="layers",
        full=1,
        least=0,
        skips=(modules,),
        replacement=Skipped,
        answers=answers,
        one_of=one_of,
    )


def _queries(model: Detector) -> Site:
    names = {id(module): name for name, module in model.named_modules()}
    tables = model.query_tables
    full = tables[0].weight.shape[0] if tables else model.num_proposals
    patterns = getattr(model.transformer, "patterns", None)
    return CountSite(
        name="queries",
        label="queries",
        part="queries",
        full=full,
        step=max(1, full // QUERY_STEPS),
        slices=tuple(Slice(f"{names[id(table)]}.weight", 0, ("item",)) for table in tables),
        settings=() if tables else (Setting("", "num_proposals"),),
        queries=True,
        copies=1 if patterns is None else len(patterns.weight),
        begins=_first_of_queries(model),
    )


def _first_of_queries(model: Detector) -> str:
    """The first module that sees the queries: learned ones tell their points, and proposals are embedded."""
    if not model.query_tables:
        return "transformer.positions"
    points = isinstance(getattr(model.transformer, "reference_points", None), nn.Module)
    return "transformer.reference_points" if points else "transformer.decoder"


def _linear(prefix: str, role: str, *spaces: int) -> tuple[Slice, Slice]:
    return Slice(f"{prefix}.weight", 0, (role,), spaces), Slice(f"{prefix}.bias", 0, (role,), spaces)


def _output(prefix: str) -> Slice:
    return Slice(f"{prefix}.weight", 1, ("output",))


def _between(model: nn.Module, writer: str, reader: str, step: int, **about: Any) -> Site:
    """The channels between two linear layers."""
    full = _rows(model, writer)
    return HiddenSite(
        full=full,
        step=min(step, full),
        slices=(*_linear(writer, "hidden"), _output(reader)),
        readers=(Reader(reader),),
        **about,
    )


def _rows(model: nn.Module, linear: str) -> int:
    weight = model.get_submodule(linear).weight
    assert isinstance(weight, Tensor)
    return len(weight)


def _ffn(model: Detector, layer: str, label: str, prefix: str) -> Site:
    part = layer.partition(".")[0]
    about = {"name": f"{layer}.ffn", "label": f"{label}: ffn", "part": part, "inside": layer}
    return _between(model, f"{prefix}.linear1", f"{prefix}.linear2", FFN_STEP, **about)


def _attention(model: Detector, layer: str, kind: str, label: str, prefix: str, module: str) -> Site:
    """An attention of a layer.

    Args:
        model: the detector.
        layer: the layer's name.
        kind: of the attention, in the width list.
        label: the layer's.
        prefix: the layer's module.
        module: the attention's name in it.
    """
    attention = model.get_submodule(f"{prefix}.{module}")
    slices = _SLICES[type(attention), module](prefix, module, model)
    output = next(part for part in slices if part.output)
    options, weight = model.options, model.get_parameter(output.name)
    products = any(part.spaces for part in slices)
    return AttentionSite(
        name=f"{layer}.{kind}",
        label=f"{label}: {kind}",
        part=layer.partition(".")[0],
        full=weight.shape[1],
        grain=options.grain,
        least=options.grain,
        step=options.grain,
        slices=slices,
        inside=layer,
        heads=1 if options.whole_heads else options.heads,
        head_dim=options.unit,
        reader=Reader(output.name.removesuffix(".weight")),
        core=f"{prefix}.{module}.core" if products else "",
        also=_direct_levels(model, prefix) if module == "self_attn" else {},
    )


def _direct_levels(model: Detector, prefix: str) -> dict[str, Tensor]:
    """Where the levels' weights read a self-attention's queries, they read what makes these instead."""
    layer = model.get_submodule(prefix)
    direct = layer.direct_levels() if isinstance(layer, LevelDecoderLayer) else {}
    return {f"{prefix}.{name}": tensor for name, tensor in direct.items()}


def _packed(prefix: str, module: str, model: Detector) -> tuple[Slice, ...]:
    roles = ("query", "key", "value")
    return (
        Slice(f"{prefix}.{module}.in_proj_weight", 0, roles, (0,)),
        Slice(f"{prefix}.{module}.in_proj_bias", 0, roles, (0,)),
        _output(f"{prefix}.{module}.out_proj"),
    )


def _self_attention(prefix: str, module: str, model: Detector) -> tuple[Slice, ...]:
    return (
        *_linear(f"{prefix}.sa_qcontent_proj", "query", 0),
        *_linear(f"{prefix}.sa_qpos_proj", "query", 0),
        *_linear(f"{prefix}.sa_kcontent_proj", "key", 0),
        *_linear(f"{prefix}.sa_kpos_proj", "key", 0),
        *_linear(f"{prefix}.sa_v_proj", "value"),
        _output(f"{prefix}.self_attn.out_proj"),
    )


def _cross_attention(prefix: str, module: str, model: Detector) -> tuple[Slice, ...]:
    # Content and position are two products; the first layer adds the key's position to its content, too.
    first = getattr(model.get_submodule(prefix), "ca_qpos_proj", None) is not None
    return (
        *_linear(f"{prefix}.ca_qcontent_proj", "query", 0),
        *(_linear(f"{prefix}.ca_qpos_proj", "query", 0) if first else ()),
        *_linear(f"{prefix}.ca_qpos_sine_proj", "query", 1),
        *_linear(f"{prefix}.ca_kcontent_proj", "key", 0),
        *_linear(f"{prefix}.ca_kpos_proj", "key", *((0, 1) if first else (1,))),
        *_linear(f"{prefix}.ca_v_proj", "value"),
        _output(f"{prefix}.cross_attn.out_proj"),
    )


def _level_attention(prefix: str, module: str, model: Detector) -> tuple[Slice, ...]:
    return (*_cross_attention(prefix, module, model)[:-1], _output(f"{prefix}.ca_out_v_proj"))


def _deformable(prefix: str, module: str, model: Detector) -> tuple[Slice, ...]:
    # Where a head looks and what its points weigh come from the query, whatever the head's width.
    places = ("sampling_offsets", "attention_weights") if model.options.whole_heads else ()
    return (
        *_linear(f"{prefix}.{module}.value_proj", "value"),
        *(part for place in places for part in _linear(f"{prefix}.{module}.{place}", "sampling")),
        _output(f"{prefix}.{module}.output_proj"),
    )


Describe = Callable[[str, str, Detector], tuple[Slice, ...]]
# One description for each class of attention, and its name in the layer.
_SLICES: dict[tuple[type[nn.Module], str], Describe] = {
    (PackedSelfAttention, "self_attn"): _packed,
    (DeformableSelfAttention, "self_attn"): _deformable,
    (Attention, "self_attn"): _self_attention,
    (Attention, "cross_attn"): _cross_attention,
    (DeformableAttention, "cross_attn"): _deformable,
    (LevelAttention, "cross_attn"): _level_attention,
}


def _mlps(model: Detector, part: str, *names: str) -> Iterator[Site]:
    """The MLPs of an encoder or decoder, each with one hidden width."""
    for name in names:
        module = f"transformer.{part}.{name}"
        if getattr(model.get_submodule(f"transformer.{part}"), name, None) is not None:
            about = {"name": f"{part}.{name}", "label": f"{part}: {name}", "part": "heads", "sort": "mlp"}
            yield _between(model, f"{module}.layers.0", f"{module}.layers.1", MLP_STEP, **about)


def _own_heads(model: Detector) -> bool:
    """Whether every decoder layer has heads of its own."""
    heads = model.bbox_embed
    return isinstance(heads, nn.ModuleList) and len({id(head) for head in heads}) == len(heads) > 1


def _boxes(model: Detector) -> Iterator[Site]:
    """The box heads, each with two hidden widths; one that layers share is there once."""
    names = {id(module): name for name, module in model.named_modules()}
    heads, own = model.bbox_embed, _own_heads(model)
    assert isinstance(heads, nn.Module)
    for index, head in enumerate(heads if isinstance(heads, nn.ModuleList) else [heads]):
        if not isinstance(head, MLP) or (index and not own):
            continue
        module, name = names[id(head)], f"boxes.{index}" if own else "boxes"
        inside = f"decoder.{index}" if own and index < len(model.transformer.decoder.layers) else ""
        for hidden in range(len(head.layers) - 1):
            about = {"name": f"{name}.{hidden}", "label": f"{name}: hidden layer {hidden}", "inside": inside}
            about |= {"part": "heads", "sort": "mlp"}
            yield _between(model, f"{module}.layers.{hidden}", f"{module}.layers.{hidden + 1}", MLP_STEP, **about)
