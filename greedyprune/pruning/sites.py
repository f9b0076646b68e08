"""The places of a detector whose width can be pruned, and the tensors that are sliced with each."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from greedyprune.models.deformable_attention import DeformableAttention, DeformableSelfAttention
from greedyprune.models.detector import Detector
from greedyprune.models.layers import Attention, PackedSelfAttention


@dataclass(frozen=True)
class Slice:
    """A tensor that loses a site's pruned channels.

    Attributes:
        name: its name in the state dict.
        dim: the dimension that holds the site's channels.
        roles: what the site's channels are in it, once for each time that they lie one after another in that dimension
            (q, k, v stacked: three): `query`, `key`, `value`, `hidden`, or `output` where they are read.
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
        name: `encoder.0.attn`, `decoder.2.cross` ...
        width: its full width.
        groups: attention heads, or 1 for an FFN. Channel `c` belongs to group `c // (width / groups)`.
        slices: the tensors that are sliced with it.
    """

    name: str
    width: int
    groups: int
    slices: tuple[Slice, ...]

    @property
    def part(self) -> str:
        """`encoder` or `decoder`."""
        return self.name.split(".")[0]

    @property
    def layer(self) -> int:
        return int(self.name.split(".")[1])

    @property
    def kind(self) -> str:
        """`attn`, `self`, `cross` or `ffn`."""
        return self.name.split(".")[2]

    @property
    def group_width(self) -> int:
        """Channels of one group."""
        return self.width // self.groups

    @property
    def products(self) -> int:
        """Products of queries and keys that are summed before the softmax; 0 where there are none."""
        return len({space for part in self.slices for space in part.spaces})

    @property
    def reads(self) -> str:
        """The weight that reads the site's channels."""
        return next(part.name for part in self.slices if part.output)


# From a layer's name in the state dict and the layer itself to the slices of one of its sites.
Describe = Callable[[str, nn.Module], tuple[Slice, ...]]


def list_sites(model: Detector) -> list[Site]:
    """Every site of a detector, front to back, with the widths that it has now."""
    heads, sites = model.options.heads, []
    for name, width in model.cfgs.widths().items():
        part, index, kind = name.split(".")
        prefix = f"transformer.{part}.layers.{index}"
        layer = model.get_submodule(prefix)
        describe = _DESCRIPTIONS[kind, type(getattr(layer, _PLACES[kind]))]
        sites.append(Site(name, width, 1 if kind == "ffn" else heads, describe(prefix, layer)))
    return sites


def _linear(prefix: str, role: str, *spaces: int) -> tuple[Slice, Slice]:
    return Slice(f"{prefix}.weight", 0, (role,), spaces), Slice(f"{prefix}.bias", 0, (role,), spaces)


def _output(prefix: str) -> Slice:
    return Slice(f"{prefix}.weight", 1, ("output",))


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
    # Where a head looks and what its points weigh come from the query, whatever the width.
    return lambda prefix, layer: (
        *_linear(f"{prefix}.{name}.value_proj", "value"),
        _output(f"{prefix}.{name}.output_proj"),
    )


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
