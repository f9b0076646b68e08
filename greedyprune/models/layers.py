"""Transformer layers that take their widths: the dense layer is the one whose widths are full."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from greedyprune.models.features import Features

ACTIVATIONS = {"prelu": nn.PReLU, "relu": nn.ReLU, "gelu": nn.GELU}


class Heads(NamedTuple):
    """How an attention's channels lie in heads, as `unflatten` takes it; -1: it follows from the width.

    Attributes:
        number: of heads, where every head loses channels with the width.
        dim: channels of a head, where heads stay whole and there are fewer of them.
    """

    number: int = -1
    dim: int = -1

    def split(self, x: Tensor) -> Tensor:
        """`[B, N, width]` -> `[B, heads, N, width / heads]`."""
        return x.unflatten(-1, tuple(self)).transpose(1, 2)

    def of(self, width: int) -> int:
        """How many heads a width has."""
        return self.number if self.number > 0 else width // self.dim


@dataclass(frozen=True)
class LayerOptions:
    """What all layers of a Transformer have in common.

    Attributes:
        dim: channels of tokens, queries and memory.
        heads: how attention channels lie in heads.
        activation: a name of `ACTIVATIONS`.
        dropout: dropout probability.
    """

    dim: int
    heads: Heads
    activation: str = "prelu"
    dropout: float = 0.0


class Skipped(nn.Module):
    """The place of a layer that is left out, or of a head of its own: without tensors, so others keep their names."""


def present(layers: nn.ModuleList) -> list[tuple[int, nn.Module]]:
    """The layers that are not `Skipped`, each with its number."""
    return [(index, layer) for index, layer in enumerate(layers) if not isinstance(layer, Skipped)]


def make_layers(
    widths: Sequence[tuple[int, ...] | None], make: Callable[[int, tuple[int, ...]], nn.Module]
) -> list[nn.Module]:
    """Layers front to back.

    Args:
        widths: of every layer; None: it is left out.
        make: a layer, of its number and its widths.
    """
    return [Skipped() if each is None else make(index, each) for index, each in enumerate(widths)]


class MLP(nn.Module):
    """Linear layers with ReLU between them; `[..., in_dim]` -> `[..., out_dim]`.

    Args:
        in_dim: channels that go in.
        hidden: channels between every two layers, in their order.
        out_dim: channels that come out.
    """

    def __init__(self, in_dim: int, hidden: Sequence[int], out_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([in_dim, *hidden, out_dim]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor, shown: Tensor | None) -> Tensor:
    """Scaled dot-product attention; see `HeadedAttention.attend`; returns `[B, heads, N, d]`."""
    given = (q, k, v)
    if has_torch_function(given):
        return handle_torch_function(dot_product_attention, given, q, k, v, shown)
    missing = q.shape[-1] - v.shape[-1]
    if missing > 0 and q.device.type == "cpu":
        # PyTorch's fused kernel for CPUs wants heads of one width; without it the softmax goes through memory.
        return F.scaled_dot_product_attention(q, k, F.pad(v, (0, missing)), attn_mask=shown)[..., : v.shape[-1]]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=shown)


class DotProductAttention(nn.Module):
    """`dot_product_attention` as a module, so that hooks can look at what goes in."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, shown: Tensor | None) -> Tensor:
        """See `HeadedAttention.attend`; returns `[B, heads, N, d]`."""
        return dot_product_attention(q, k, v, shown)


class HeadedAttention(nn.Module):
    """Multi-head attention and its output projection; the base of attentions that differ in what they take.

    Args:
        width: value channels over all heads.
        heads: how they lie in heads.
        out_dim: channels of the result.
    """

    def __init__(self, width: int, heads: Heads, out_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.core = DotProductAttention()
        self.out_proj = nn.Linear(width, out_dim)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, shown: Tensor | None) -> Tensor:
        """q `[B, heads, N, e]`, k `[B, heads, M, e]`, v `[B, heads, M, d]` -> `[B, N, out_dim]`.

        The softmax scale is 1 / sqrt(e). `shown` is True where a query may look, broadcast to `[B, heads, N, M]`.
        """
        x = self.core(q, k, v, shown)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # [B, N, heads * d] -> [B, N, out_dim]


class Attention(HeadedAttention):
    """Attention over queries, keys and values that are projected already."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, shown: Tensor | None) -> Tensor:
        """See `attend`."""
        return self.attend(q, k, v, shown)


class PackedSelfAttention(HeadedAttention):
    """Self-attention whose three input projections are one stacked tensor, as in `torch.nn.MultiheadAttention`."""

    def __init__(self, dim: int, width: int, heads: Heads) -> None:
        super().__init__(width, heads, dim)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))

    def forward(self, x: Tensor, pos: Tensor, shown: Tensor | None) -> Tensor:
        """x, pos `[B, N, dim]` -> `[B, N, dim]`; positions go to queries and keys only."""
        width = self.out_proj.weight.shape[1]
        qk_weight, v_weight = self.in_proj_weight.split((2 * width, width))
        qk_bias, v_bias = self.in_proj_bias.split((2 * width, width))
        q, k = F.linear(x + pos, qk_weight, qk_bias).chunk(2, dim=-1)
        v = F.linear(x, v_weight, v_bias)
        split = self.heads.split
        return self.attend(split(q), split(k), split(v), shown)


class Layer(nn.Module):
    """The FFN of a layer; its attention and its norms are each kind's own.

    Args:
        options: what it has in common with other layers.
        width: hidden channels of the FFN.
    """

    def __init__(self, options: LayerOptions, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(options.dim, width)
        self.linear2 = nn.Linear(width, options.dim)
        self.activation = ACTIVATIONS[options.activation]()
        self.dropout = nn.Dropout(options.dropout)

    def ffn(self, x: Tensor) -> Tensor:
        """`[B, N, dim]` -> `[B, N, dim]`, without residual and norm."""
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class EncoderLayer(Layer):
    """Self-attention and FFN, each followed by a residual and a LayerNorm (post-norm).

    Args:
        options: what it has in common with other layers.
        widths: of its attention, over all heads (`dim` when dense), and of its FFN.
        attention: attends in place of a `PackedSelfAttention` of that width.
    """

    def __init__(self, options: LayerOptions, widths: Sequence[int], attention: nn.Module | None = None) -> None:
        attn_width, ffn_width = widths
        super().__init__(options, ffn_width)
        self.norm2 = nn.LayerNorm(options.dim)
        self.self_attn = attention or PackedSelfAttention(options.dim, attn_width, options.heads)
        self.norm1 = nn.LayerNorm(options.dim)

    def forward(self, x: Tensor, pos: Tensor, where: Any) -> Tensor:
        """Attention, then FFN.

        Args:
            x: `[B, N, dim]`.
            pos: `[B, N, dim]`, added to queries and keys.
            where: third argument of the attention: True where a token may look, broadcast to `[B, heads, N, N]`, or
                None; or the tokens' `Levels`.

        Returns:
            `[B, N, dim]`.
        """
        x = self.norm1(x + self.dropout(self.self_attn(x, pos, where)))
        return self.norm2(x + self.dropout(self.ffn(x)))


class Asked(NamedTuple):
    """What a decoder layer's self-attention asks.

    Attributes:
        content: `[B, N, dim]` of the queries.
        pos: `[B, N, dim]` embedding of their boxes.
        q: `[B, N, self width]` projection of both.
    """

    content: Tensor
    pos: Tensor
    q: Tensor


class DecoderLayer(Layer):
    """Self-attention, conditional cross-attention and FFN of DAB-DETR (section 4.1 and figure 5), post-norm.

    Args:
        options: what it has in common with other layers.
        widths: of its self-attention, cross-attention and FFN. Those of attention are over all heads (`dim` when
            dense); a channel of cross-attention has a content and a position part in q and k.
        first: the first decoder layer also projects the query position into the cross-attention's content part.
    """

    def __init__(self, options: LayerOptions, widths: Sequence[int], first: bool) -> None:
        self_width, cross_width, ffn_width = widths
        super().__init__(options, ffn_width)
        dim, heads = options.dim, options.heads
        self.heads = heads
        self.norm3 = nn.LayerNorm(dim)
        self.sa_qcontent_proj = nn.Linear(dim, self_width)
        self.sa_qpos_proj = nn.Linear(dim, self_width)
        self.sa_kcontent_proj = nn.Linear(dim, self_width)
        self.sa_kpos_proj = nn.Linear(dim, self_width)
        self.sa_v_proj = nn.Linear(dim, self_width)
        self.self_attn = Attention(self_width, heads, dim)
        self.norm1 = nn.LayerNorm(dim)

        self.ca_qcontent_proj = nn.Linear(dim, cross_width)
        self.ca_qpos_proj = nn.Linear(dim, cross_width) if first else None
        self.ca_kcontent_proj = nn.Linear(dim, cross_width)
        self.ca_kpos_proj = nn.Linear(dim, cross_width)
        self.ca_v_proj = nn.Linear(dim, cross_width)
        self.ca_qpos_sine_proj = nn.Linear(dim, cross_width)
        self.cross_attn: nn.Module = Attention(cross_width, heads, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        features: Features,
        *,
        query_pos: Tensor,
        query_sine: Tensor,
        self_shown: Tensor | None,
    ) -> Tensor:
        """The queries look at each other, then at the memory; then the FFN.

        Args:
            x: content of the queries `[B, N, dim]`.
            memory: `[B, M, dim]`.
            features: positions of the memory's tokens, and which of them are image.
            query_pos: learned embedding of the queries' boxes `[B, N, dim]`.
            query_sine: modulated sine embedding of the queries' centres `[B, N, dim]`.
            self_shown: `[N, N]` bool, True where a query may look at another; None: everywhere.

        Returns:
            `[B, N, dim]`.
        """
        split = self.heads.split
        asked = Asked(x, query_pos, self.sa_qcontent_proj(x) + self.sa_qpos_proj(query_pos))
        k = self.sa_kcontent_proj(x) + self.sa_kpos_proj(query_pos)
        attended = self.self_attn(split(asked.q), split(k), split(self.sa_v_proj(x)), self_shown)
        x = self.norm1(x + self.dropout(attended))

        q, k, k_pos = self.ca_qcontent_proj(x), self.ca_kcontent_proj(memory), self.ca_kpos_proj(features.pos)
        if self.ca_qpos_proj is not None:
            q, k = q + self.ca_qpos_proj(query_pos), k + k_pos
        q = torch.cat((split(q), split(self.ca_qpos_sine_proj(query_sine))), dim=-1)  # [B, h, N, 2w/h]
        k = torch.cat((split(k), split(k_pos)), dim=-1)  # [B, h, M, 2w/h]
        attended = self.cross(q, k, split(self.ca_v_proj(memory)), features, asked)
        x = self.norm2(x + self.dropout(attended))

        return self.norm3(x + self.dropout(self.ffn(x)))

    def cross(self, q: Tensor, k: Tensor, v: Tensor, features: Features, asked: Asked) -> Tensor:
        """Cross-attention `[B, N, dim]` of q, k, v `[B, heads, N or M, ...]`, after the queries `asked` each other."""
        return self.cross_attn(q, k, v, features.shown)
