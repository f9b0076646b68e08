"""DAB-DETR's Transformer: an encoder over image tokens and a decoder that refines one box for each query."""

from typing import cast

import torch
from torch import Tensor, nn

from greedyprune.cfgs import Cfgs
from greedyprune.models.layers import MLP, DecoderLayer, EncoderLayer
from greedyprune.models.position import box_positions


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """log(x / (1 - x)) with both parts kept above `eps`, as DAB-DETR does."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


class Encoder(nn.Module):
    """Encoder layers; each scales the position embedding by a function of its input (DAB-DETR, section 4.1).

    Args:
        dim: channels of the tokens.
        layers: the encoder layers.
        norm: a LayerNorm after the last of them.
    """

    def __init__(self, dim: int, layers: list[EncoderLayer], norm: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim) if norm else None
        self.query_scale = MLP(dim, dim, dim, 2)

    def attend(self, index: int, x: Tensor, pos: Tensor, mask: Tensor | None) -> Tensor:
        """The attention half of layer `index`: `[B, N, dim]` -> `[B, N, dim]`."""
        return cast(EncoderLayer, self.layers[index]).attend(x, pos * self.query_scale(x), mask)

    def feed(self, index: int, x: Tensor) -> Tensor:
        """The FFN half of layer `index`, with what follows the last one: `[B, N, dim]` -> `[B, N, dim]`."""
        x = cast(EncoderLayer, self.layers[index]).feed(x)
        return x if self.norm is None or index + 1 < len(self.layers) else self.norm(x)

    def forward(self, x: Tensor, pos: Tensor, mask: Tensor | None) -> Tensor:
        """All layers: x, pos `[B, N, dim]`, mask True where there is image -> memory `[B, N, dim]`."""
        for index in range(len(self.layers)):
            x = self.feed(index, self.attend(index, x, pos, mask))
        return x


class Decoder(nn.Module):
    """Decoder layers with modulated attention and iterative box refinement.

    Args:
        dim: channels of queries and memory.
        layers: the decoder layers; the first one has `ca_qpos_proj`.
        bbox_embed: the box head, shared with the detector.
    """

    def __init__(self, dim: int, layers: list[DecoderLayer], bbox_embed: MLP) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)
        self.query_scale = MLP(dim, dim, dim, 2)
        self.ref_point_head = MLP(2 * dim, dim, dim, 2)
        self.ref_anchor_head = MLP(dim, dim, 2, 2)
        self.bbox_embed = bbox_embed
        self.dim = dim

    def refine(self, content: Tensor, reference: Tensor) -> Tensor:
        """Boxes `[..., 4]` that the box head makes of `content` around `reference`; always in float32."""
        kind = content.device.type if content.device.type != "meta" else "cpu"  # there is no autocast of shapes alone
        with torch.autocast(kind, enabled=False):
            delta = self.bbox_embed(content.to(self.norm.weight.dtype)).float()
            return (delta + inverse_sigmoid(reference.float())).sigmoid()

    def attend(
        self,
        index: int,
        content: Tensor,
        reference: Tensor,
        memory: Tensor,
        pos: Tensor,
        self_mask: Tensor | None,
        memory_mask: Tensor | None,
    ) -> Tensor:
        """The attention half of layer `index`: content `[B, N, dim]`, boxes `[B, N, 4]` -> `[B, N, dim]`."""
        sine = box_positions(reference, self.dim // 2)  # [B, N, 2 * dim], ordered y, x, w, h
        query_pos = self.ref_point_head(sine.to(content.dtype))
        # The sine of the centre, weighed by content and by the box's height and width (DAB-DETR, equation 6).
        by_w, by_h = (self.ref_anchor_head(content).sigmoid().float() / reference[..., 2:].float()).split(1, dim=-1)
        half = self.dim // 2
        query_sine = torch.cat((sine[..., :half] * by_h, sine[..., half : self.dim] * by_w), dim=-1)
        if index > 0:
            query_sine = query_sine * self.query_scale(content)
        return cast(DecoderLayer, self.layers[index]).attend(
            content,
            memory,
            pos=pos,
            query_pos=query_pos,
            query_sine=query_sine.to(content.dtype),
            self_mask=self_mask,
            memory_mask=memory_mask,
        )

    def feed(self, index: int, content: Tensor) -> Tensor:
        """The FFN half of layer `index`: `[B, N, dim]` -> `[B, N, dim]`."""
        return cast(DecoderLayer, self.layers[index]).feed(content)

    def forward(
        self,
        content: Tensor,
        reference: Tensor,
        memory: Tensor,
        pos: Tensor,
        self_mask: Tensor | None,
        memory_mask: Tensor | None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """All layers.

        Returns:
            Per layer the normalised content `[B, N, dim]`, and the reference boxes `[B, N, 4]` (cxcywh in 0..1) that
            it started from. References keep their gradient, so that a layer's box loss reaches the layer before it,
            as in the published model; what the next layer computes from them does not.
        """
        hidden, references = [], [reference]
        for index in range(len(self.layers)):
            content = self.feed(index, self.attend(index, content, reference, memory, pos, self_mask, memory_mask))
            hidden.append(self.norm(content))
            if index + 1 < len(self.layers):
                references.append(self.refine(content, reference))
                reference = references[-1].detach()
        return hidden, references


class Transformer(nn.Module):
    """Encoder and decoder of DAB-DETR with the widths of `cfgs`.

    Args:
        dim: channels of the tokens.
        heads: attention heads.
        cfgs: a width for every site; its lengths are the numbers of layers.
        bbox_embed: the box head that the decoder shares with the detector.
        num_patterns: learned content patterns; each is paired with every anchor (0: none).
        activation: activation of the FFNs.
        dropout: dropout probability.
        encoder_norm: a LayerNorm after the last encoder layer.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        cfgs: Cfgs,
        bbox_embed: MLP,
        num_patterns: int = 0,
        activation: str = "prelu",
        dropout: float = 0.0,
        encoder_norm: bool = False,
    ) -> None:
        super().__init__()
        layers = [EncoderLayer(dim, heads, attn, ffn, activation, dropout) for attn, ffn in cfgs.encoder]
        self.encoder = Encoder(dim, layers, encoder_norm)
        self.decoder = Decoder(
            dim,
            [
                DecoderLayer(dim, heads, s, c, f, index == 0, activation, dropout)
                for index, (s, c, f) in enumerate(cfgs.decoder)
            ],
            bbox_embed,
        )
        self.patterns = nn.Embedding(num_patterns, dim) if num_patterns else None
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        x: Tensor,
        pos: Tensor,
        mask: Tensor | None,
        content: Tensor,
        reference: Tensor,
        self_mask: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Image tokens and queries to the decoder's hidden states and references (see `Decoder.forward`).

        Args:
            x: image tokens `[B, M, dim]`.
            pos: their position embedding `[B, M, dim]`.
            mask: `[B, 1, 1, M]` bool, True where there is image; None: everywhere.
            content: `[B, N, dim]`.
            reference: `[B, N, 4]` boxes, cxcywh in 0..1.
            self_mask: `[N, N]` bool, True where a query may look at another; None: everywhere.
        """
        memory = self.encoder(x, pos, mask)
        return self.decoder(content, reference, memory, pos, self_mask, mask)
