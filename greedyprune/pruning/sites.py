"""The places of a detector whose width can be pruned, and the tensors that are sliced with each."""

from dataclasses import dataclass

from greedyprune.models.dn_detr import DNDETR


@dataclass(frozen=True)
class Slice:
    """A tensor that loses a site's pruned channels.

    Attributes:
        name: its name in the state dict.
        dim: the dimension that holds the site's channels.
        blocks: how many times the site's channels lie one after another in that dimension (q, k, v stacked: 3).
        query_block: the block that makes attention queries, whose softmax scale depends on the width; None: none.
        output: it reads the site's channels; the others write them.
    """

    name: str
    dim: int
    blocks: int = 1
    query_block: int | None = None
    output: bool = False


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


def list_sites(model: DNDETR) -> list[Site]:
    """Every site of a detector, front to back, with the widths that it has now."""
    heads, sites = model.options.heads, []
    for name, width in model.cfgs.widths().items():
        part, layer, kind = name.split(".")
        prefix = f"transformer.{part}.layers.{layer}"
        if kind == "ffn":
            sites.append(Site(name, width, 1, _ffn(prefix)))
        elif kind == "attn":
            sites.append(Site(name, width, heads, _packed_attention(prefix)))
        elif kind == "self":
            sites.append(Site(name, width, heads, _self_attention(prefix)))
        else:
            sites.append(Site(name, width, heads, _cross_attention(prefix, first=layer == "0")))
    return sites


def _linear(prefix: str, query: bool = False) -> tuple[Slice, Slice]:
    block = 0 if query else None
    return Slice(f"{prefix}.weight", 0, query_block=block), Slice(f"{prefix}.bias", 0, query_block=block)


def _ffn(prefix: str) -> tuple[Slice, ...]:
    return (*_linear(f"{prefix}.linear1"), Slice(f"{prefix}.linear2.weight", 1, output=True))


def _packed_attention(prefix: str) -> tuple[Slice, ...]:
    return (
        Slice(f"{prefix}.self_attn.in_proj_weight", 0, blocks=3, query_block=0),
        Slice(f"{prefix}.self_attn.in_proj_bias", 0, blocks=3, query_block=0),
        Slice(f"{prefix}.self_attn.out_proj.weight", 1, output=True),
    )


def _self_attention(prefix: str) -> tuple[Slice, ...]:
    return (
        *_linear(f"{prefix}.sa_qcontent_proj", query=True),
        *_linear(f"{prefix}.sa_qpos_proj", query=True),
        *_linear(f"{prefix}.sa_kcontent_proj"),
        *_linear(f"{prefix}.sa_kpos_proj"),
        *_linear(f"{prefix}.sa_v_proj"),
        Slice(f"{prefix}.self_attn.out_proj.weight", 1, output=True),
    )


def _cross_attention(prefix: str, first: bool) -> tuple[Slice, ...]:
    return (
        *_linear(f"{prefix}.ca_qcontent_proj", query=True),
        *(_linear(f"{prefix}.ca_qpos_proj", query=True) if first else ()),
        *_linear(f"{prefix}.ca_qpos_sine_proj", query=True),
        *_linear(f"{prefix}.ca_kcontent_proj"),
        *_linear(f"{prefix}.ca_kpos_proj"),
        *_linear(f"{prefix}.ca_v_proj"),
        Slice(f"{prefix}.cross_attn.out_proj.weight", 1, output=True),
    )
