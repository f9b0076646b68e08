"""The places of a detector whose width can be pruned, and the tensors that are sliced with each."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from greedyprune.models.deformable_attention import DeformableAttention, DeformableSelfAttention
from greedyprune.models.detector import Detector
from greedyprune.models.layers import Attention, PackedSelfAttention


@dataclass(frozen=True)
class Slice:
    """A tensor that loses a site's pruned channels.

    Attributes:
        name: its name in the state dict.
        dim: the dimension that holds the site's channels. A unit has as many rows there as the tensor's size gives it,
            so what a head has beside its channels is sliced as they are.
        roles: what the site's channels are in it, once for each time that they lie one after another in that dimension
            (q, k, v stacked: three): `query`, `key`, `value`, `hidden`, `statistic` of a batch norm, `output` where
            they are read, or `sampling` where they are no channels, but the places where a head looks.
        spaces: the products of queries and keys, summed before the softmax, that its queries or keys belong to.
    """

    name: str
    dim: int
    roles: tuple[str, ...]
    spaces: tuple[int, ...] = ()

    @property
    def blocks(self) -> int:
        return len(self.roles)

    @property
    def output(self) -> bool:
        """It reads the site's channels; the others write them."""
        return self.roles == ("output",)


@dataclass(frozen=True)
class Site:
    """A place whose width can be pruned.

    Attributes:
        name: `encoder.0.attn`, `decoder.2.cross`, `backbone.5.conv1` ...
        width: its full width.
        groups: parts that keep the same number of channels: attention heads, or 1 for an FFN, in the backbone and
            where heads leave whole. Channel `c` belongs to group `c // (width / groups)`.
        slices: the tensors that are sliced with it.
        unit: channels that stay or leave together: those of a head where heads leave whole, else 1. Channel `c` belongs
            to unit `c // unit`, whose name is its first channel.
    """

    name: str
    width: int
    groups: int
    slices: tuple[Slice, ...]
    unit: int = 1

    @property
    def part(self) -> str:
        """`encoder`, `decoder` or `backbone`."""
        return self.name.split(".")[0]

    @property
    def layer(self) -> int:
        """The layer's number in its part, or the block's."""
        return int(self.name.split(".")[1])

    @property
    def kind(self) -> str:
        """`attn`, `self`, `cross` or `ffn`; in the backbone the convolution that writes it, `conv1` or `conv2`."""
        return self.name.split(".")[2]

    @property
    def group_width(self) -> int:
        """Channels of one group."""
        return self.width // self.groups

    @property
    def products(self) -> int:
        """Products of queries and keys that may get another basis: none where there are none or heads leave whole."""
        return 0 if self.unit > 1 else len({space for part in self.slices for space in part.spaces})

    @property
    def reads(self) -> str:
        """The weight that reads the site's channels."""
        return next(part.name for part in self.slices if part.output)

    @property
    def grain(self) -> int:
        """Its least width, of which all others are multiples."""
        return self.groups * self.unit

    def units(self, channels: Iterable[int]) -> list[int]:
        """The units that channels belong to, ascending."""
        return sorted({channel // self.unit for channel in channels})

    def by_unit(self, part: Slice, tensor: Tensor) -> Tensor:
        """A view of a slice's tensor as `[blocks, units, rows of a unit, ...]`."""
        return tensor.movedim(part.dim, 0).unflatten(0, (part.blocks, self.width // self.unit, -1))

    def pruned(self, kept: Iterable[int]) -> Tensor:
        """`[units]` bool, True where no channel is kept."""
        off = torch.ones(self.width // self.unit, dtype=torch.bool)
        off[self.units(kept)] = False
        return off


# From a layer's name in the state dict and the layer itself to the slices of one of its sites.
Describe = Callable[[str, nn.Module], tuple[Slice, ...]]


def list_sites(model: Detector, prune: str = "transformer") -> list[Site]:
    """The sites of a detector, front to back, with the widths that it has now.

    Args:
        model: the detector.
        prune: whose sites: `transformer`, `backbone` or `all`.
    """
    options, sites = model.options, []
    attention = (1, options.unit) if options.whole_heads else (options.heads, 1)
    blocks = list(model.feature_extractor.blocks)
    for name, width in model.cfgs.widths(prune).items():
        part, index, kind = name.split(".")
        if part == "backbone":
            sites.append(Site(name, width, 1, _convolution(f"backbone.0.{blocks[int(index)]}", int(kind[-1]))))
            continue
        prefix = f"transformer.{part}.layers.{index}"
        layer = model.get_submodule(prefix)
        describe = _DESCRIPTIONS[kind, type(getattr(layer, _PLACES[kind]))]
        groups, unit = (1, 1) if kind == "ffn" else attention
        sites.append(Site(name, width, groups, describe(prefix, layer), unit))
    return sites


def _linear(prefix: str, role: str, *spaces: int) -> tuple[Slice, Slice]:
    return Slice(f"{prefix}.weight", 0, (role,), spaces), Slice(f"{prefix}.bias", 0, (role,), spaces)


def _output(prefix: str) -> Slice:
    return Slice(f"{prefix}.weight", 1, ("output",))


def _convolution(prefix: str, number: int) -> tuple[Slice, ...]:
    # A channel whose batch norm scales by 0 and adds 0 is 0 after the ReLU, whatever the statistics.
    norm = f"{prefix}.bn{number}"
    return (
        Slice(f"{prefix}.conv{number}.weight", 0, ("hidden",)),
        *(Slice(f"{norm}.{name}", 0, ("hidden",)) for name in ("weight", "bias")),
        *(Slice(f"{norm}.{name}", 0, ("statistic",)) for name in ("running_mean", "running_var")),
        _output(f"{prefix}.conv{number + 1}"),
    )


def _ffn(prefix: str, layer: nn.Module) -> tuple[Slice, ...]:
    return (*_linear(f"{prefix}.linear1", "hidden"), _output(f"{prefix}.linear2"))


def _packed_attention(prefix: str, layer: nn.Module) -> tuple[Slice, ...]:
    roles = ("query", "key", "value")
    return (
        Slice(f"{prefix}.self_attn.in_proj_weight", 0, roles, (0,)),
        Slice(f"{prefix}.self_attn.in_proj_bias", 0, roles, (0,)),
        _output(f"{prefix}.self_attn.out_proj"),
    )


def _self_attention(prefix: str, layer: nn.Module) -> tuple[Slice, ...]:
    return (
        *_linear(f"{prefix}.sa_qcontent_proj", "query", 0),
        *_linear(f"{prefix}.sa_qpos_proj", "query", 0),
        *_linear(f"{prefix}.sa_kcontent_proj", "key", 0),
        *_linear(f"{prefix}.sa_kpos_proj", "key", 0),
        *_linear(f"{prefix}.sa_v_proj", "value"),
        _output(f"{prefix}.self_attn.out_proj"),
    )


def _cross_attention(prefix: str, layer: nn.Module) -> tuple[Slice, ...]:
    # Content and position are two products; the first layer adds the key's position to its content, too.
    first = layer.ca_qpos_proj is not None
    return (
        *_linear(f"{prefix}.ca_qcontent_proj", "query", 0),
        *(_linear(f"{prefix}.ca_qpos_proj", "query", 0) if first else ()),
        *_linear(f"{prefix}.ca_qpos_sine_proj", "query", 1),
        *_linear(f"{prefix}.ca_kcontent_proj", "key", 0),
        *_linear(f"{prefix}.ca_kpos_proj", "key", *((0, 1) if first else (1,))),
        *_linear(f"{prefix}.ca_v_proj", "value"),
        _output(f"{prefix}.cross_attn.out_proj"),
    )


def _deformable_attention(name: str) -> Describe:
    def describe(prefix: str, layer: nn.Module) -> tuple[Slice, ...]:
        # Where a head looks and what its points weigh come from the query, whatever the head's width.
        places = ("sampling_offsets", "attention_weights") if getattr(layer, name).heads.dim > 0 else ()
        return (
            *_linear(f"{prefix}.{name}.value_proj", "value"),
            *(part for place in places for part in _linear(f"{prefix}.{name}.{place}", "sampling")),
            _output(f"{prefix}.{name}.output_proj"),
        )

    return describe


# The module of a layer that tells what a site of each kind is made of.
_PLACES = {"attn": "self_attn", "self": "self_attn", "cross": "cross_attn", "ffn": "linear1"}
# One description for each kind of site: its kind in the width list and the class of that module.
_DESCRIPTIONS: dict[tuple[str, type], Describe] = {
    ("ffn", nn.Linear): _ffn,
    ("attn", PackedSelfAttention): _packed_attention,
    ("attn", DeformableSelfAttention): _deformable_attention("self_attn"),
    ("self", Attention): _self_attention,
    ("self", PackedSelfAttention): _packed_attention,
    ("cross", Attention): _cross_attention,
    ("cross", DeformableAttention): _deformable_attention("cross_attn"),
}
