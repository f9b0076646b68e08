"""Sites: what about a model can be made less, with everything that the engine needs to know of each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

Widths = Mapping[str, int]  # site name -> width


@dataclass(frozen=True)
class Slice:
    """A tensor that loses a site's pruned channels, or rows of a count.

    Attributes:
        name: its name in the state dict.
        dim: the dimension that holds the site's channels. A unit has as many rows there as the tensor's size gives it,
            so what a head has beside its channels is sliced as they are.
        roles: what the site's channels are in it, once for each time that they lie one after another in that dimension
            (q, k, v stacked: three): `query`, `key`, `value`, `hidden`, `item` of a count, `statistic` of a batch norm,
            `output` where they are read, or `sampling` where they are no channels, but the places where a head looks.
        spaces: the products of queries and keys, summed before the softmax, that its queries or keys belong to.
        places: of each unit of the site where it is in that dimension, which other sites may share, as after a
            concatenation, and which may hold a unit several times; empty: the whole dimension is the site's.
    """

    name: str
    dim: int
    roles: tuple[str, ...]
    spaces: tuple[int, ...] = ()
    places: tuple[tuple[int, ...], ...] = ()

    @property
    def blocks(self) -> int:
        return len(self.roles)

    @property
    def output(self) -> bool:
        """It reads the site's channels; the others write them."""
        return self.roles == ("output",)


@dataclass(frozen=True)
class Setting:
    """An attribute of a module that remembers a width; its value is `width // per`.

    Attributes:
        module: the module's name.
        attribute: the attribute's.
        per: 1, or the number of heads where the attribute is the width of one head.
        tensor: a tensor by name, whose rows count in the place of the width: several sites may have a part in them.
    """

    module: str
    attribute: str
    per: int = 1
    tensor: str = ""


@dataclass(frozen=True)
class Reader:
    """A linear layer or convolution that reads a site's channels.

    Attributes:
        module: its name.
        norm: the name of the batch norm after it, whose running mean takes what a reader without bias cannot; empty:
            there is none.
    """

    module: str
    norm: str = ""

    @property
    def weight(self) -> str:
        return f"{self.module}.weight"


@dataclass(frozen=True, kw_only=True)
class Site:
    """One thing about a model that can be made less.

    Attributes:
        name: what studies and width lists call it; nothing is found out from its letters.
        label: what messages call it.
        part: the part of the model that it belongs to, by which a search chooses its sites.
        full: its dense value.
        grain: all its values are multiples of this.
        least: the smallest value.
        step: by how much a search changes it, unless told otherwise; a multiple of `grain`.
        slices: tensors that are sliced with it.
        settings: attributes that remember its width.
        inside: the name of the count site whose absence takes this site with it; empty: none.
        also: tensors by name that take these values wherever the site is cut, to whatever width.
        begins: the module at whose call it begins to matter, where that is not the owner of a sliced tensor.
    """

    kind: ClassVar[str] = ""
    name: str
    label: str
    part: str
    full: int
    grain: int = 1
    least: int = 1
    step: int = 1
    slices: tuple[Slice, ...] = ()
    settings: tuple[Setting, ...] = ()
    inside: str = ""
    also: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    begins: str = ""

    @property
    def groups(self) -> int:
        """Parts that keep the same number of channels. Channel `c` belongs to group `c // (full / groups)`."""
        return 1

    @property
    def unit(self) -> int:
        """Channels that stay or leave together. Channel `c` belongs to unit `c // unit`."""
        return 1

    @property
    def group_width(self) -> int:
        """Channels of one group."""
        return self.full // self.groups

    def units(self, channels: Iterable[int]) -> list[int]:
        """The units that channels belong to, ascending."""
        return sorted({channel // self.unit for channel in channels})

    def positions(self, part: Slice, size: int) -> Tensor:
        """`[units, n]` int64, where each unit is in the dimension of a slice, which has `size` positions."""
        if part.places:
            return torch.tensor(part.places)
        return torch.arange(size).view(part.blocks, self.full // self.unit, -1).movedim(1, 0).flatten(1)

    def pruned(self, kept: Iterable[int]) -> Tensor:
        """`[units]` bool, True where no channel is kept."""
        off = torch.ones(self.full // self.unit, dtype=torch.bool)
        off[self.units(kept)] = False
        return off


@dataclass(frozen=True, kw_only=True)
class AttentionSite(Site):
    """The channels of an attention's heads.

    Attributes:
        heads: attention heads, each of which keeps as many channels; 1 where heads leave whole.
        head_dim: channels of a head that leaves whole; 1: channels leave one by one.
        reader: the linear layer that reads the values of all heads.
        core: the module that is called with queries `[B, heads, N, e]`, keys `[B, heads, M, e]`, values
            `[B, heads, M, d]` and what is shown; empty: the attention has no such products.
        natural_scale: the softmax scale is that of the width at hand, 1 / sqrt(head width), so that a slim attention
            needs the dense scale in its queries; else it is stored.
    """

    kind: ClassVar[str] = "attention"
    heads: int
    reader: Reader
    head_dim: int = 1
    core: str = ""
    natural_scale: bool = True

    @property
    def groups(self) -> int:
        return self.heads

    @property
    def unit(self) -> int:
        return self.head_dim

    @property
    def products(self) -> int:
        """Products of queries and keys that may get another basis: none where there are none or heads leave whole."""
        return 0 if self.unit > 1 else len({space for part in self.slices for space in part.spaces})


@dataclass(frozen=True, kw_only=True)
class HiddenSite(Site):
    """Channels between linear maps or convolutions: of an FFN, an MLP head, an inner or a chained convolution.

    Attributes:
        readers: what reads the channels.
        sort: `ffn`, `mlp` or `conv`, by which a user chooses steps.
        weighted: how much each token counts is measured by the answer's dependence on it; else all count alike, which
            needs no backward pass.
        together: channels that stay or leave together, as those that a grouped convolution or a reorganisation of
            pixels binds.
    """

    kind: ClassVar[str] = "hidden"
    readers: tuple[Reader, ...]
    sort: str = "ffn"
    weighted: bool = True
    together: int = 1

    @property
    def unit(self) -> int:
        return self.together

    def columns(self, reader: Reader, size: int) -> Tensor:
        """`[units, n]` int64, where each unit is among the `size` columns of a reader's weight."""
        return self.positions(next(part for part in self.slices if part.output and part.name == reader.weight), size)


@dataclass(frozen=True, kw_only=True)
class CountSite(Site):
    """Layers or queries.

    Attributes:
        skips: for each item the modules that leave with it, in the place of tensors that are sliced; empty: it is rows
            of `slices` that leave.
        replacement: the module class that stands in the place of one that left, called without arguments.
        answers: of each item the number of its answer, front to back, which leaves with it; empty: none does.
        queries: its items are the queries of the answer,
        copies: each of which answers so many times, one copy of all of them after another.
        one_of: a group of counts of which at least one item stays; empty: all of them may leave.
    """

    kind: ClassVar[str] = "count"
    skips: tuple[tuple[str, ...], ...] = ()
    replacement: type[torch.nn.Module] | None = None
    answers: tuple[int, ...] = ()
    queries: bool = False
    copies: int = 1
    one_of: str = ""


@dataclass(frozen=True, kw_only=True)
class RatioSite(Site):
    """A share of something that is chosen anew for each image, as of tokens: `width / full` goes into an attribute.

    Attributes:
        module: the module that remembers the share.
        attribute: its attribute, a float.
    """

    kind: ClassVar[str] = "ratio"
    module: str
    attribute: str
