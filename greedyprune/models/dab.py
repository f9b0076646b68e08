"""DAB-DETR's Transformer: attention over image tokens, and a decoder that refines one box for each query."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from greedyprune.models.features import Features, Queries
from greedyprune.models.layers import MLP, present
from greedyprune.models.position import BoxPositions
from greedyprune.models.transformer import Decoded, Decoder, Encoder, Transformer


class DABEncoder(Encoder):
    """Encoder layers; each scales the position embedding by a function of its input (DAB-DETR, section 4.1).

    Args:
        dim: channels of the tokens.
        layers: the encoder layers.
        scale_width: hidden channels of the position embedding's scale.
        norm: a LayerNorm after the last of them.
    """

    def __init__(self, dim: int, layers: Sequence[nn.Module], scale_width: int, norm: bool = False) -> None:
        super().__init__(layers)
        self.norm = nn.LayerNorm(dim) if norm else None
        self.query_scale = MLP(dim, (scale_width,), dim)

    def forward(self, features: Features) -> Tensor:
        x = features.tokens
        for _, layer in present(self.layers):
            x = layer(x, features.pos * self.query_scale(x), features.shown)
        return x if self.norm is None else self.norm(x)


class DABDecoder(Decoder):
    """Decoder layers with modulated attention and iterative box refinement.

    Boxes keep the gradient of their reference, so that their loss reaches the layer before, as in the published model.

    Args:
        dim: channels of queries and memory.
        layers: the decoder layers; the first one has `ca_qpos_proj`.
        bbox_embed: the box head, shared with the detector.
        scale_width: hidden channels of the scale of the centres' embedding.
        point_width: hidden channels of the boxes' embedding.
        anchor_width: hidden channels of the scale by height and width.
    """

    def __init__(
        self,
        dim: int,
        layers: Sequence[nn.Module],
        bbox_embed: MLP,
        *,
        scale_width: int,
        point_width: int,
        anchor_width: int,
    ) -> None:
        super().__init__(layers)
        self.norm = nn.LayerNorm(dim)
        self.query_scale = MLP(dim, (scale_width,), dim)
        self.ref_point_head = MLP(2 * dim, (point_width,), dim)
        self.ref_anchor_head = MLP(dim, (anchor_width,), 2)
        self.bbox_embed = bbox_embed
        self.positions = BoxPositions(dim // 2)
        self.dim = dim

    def box_head(self, index: int) -> nn.Module:
        return self.bbox_embed

    def forward(self, queries: Queries, memory: Tensor, features: Features, last_only: bool = False) -> list[Decoded]:
        content, around, reference = queries.content, queries.reference, queries.reference
        decoded, last = [], self.answering[-1]
        start = self.answering[0] if self.constant_start else -1
        for index, layer in present(self.layers):
            query_pos = query_sine = content  # what is made of them is there already
            if index != start:
                sine = self.positions(reference)  # [B, N, 2 * dim], ordered y, x, w, h
                query_pos = self.ref_point_head(sine.to(content.dtype))
                query_sine = self._modulated(index, sine, content, reference)
            content = layer(
                content,
                memory,
                features,
                query_pos=query_pos,
                query_sine=query_sine,
                self_shown=queries.self_shown,
            )
            if index == last or not last_only:
                decoded.append(Decoded(index, self.norm(content), around))
            if index != last:
                around = self.refine(index, content, reference)
                # Training cuts the path through the reference, as published; what the answer depends on does not.
                reference = around.detach() if self.training else around
        return decoded

    def _modulated(self, index: int, sine: Tensor, content: Tensor, reference: Tensor) -> Tensor:
        """The sine `[B, N, dim]` of the centre, weighed by content and by the box's sides (DAB-DETR, equation 6)."""
        by_w, by_h = (self.ref_anchor_head(content).sigmoid().float() / reference[..., 2:].float()).split(1, dim=-1)
        half = self.dim // 2
        result = torch.cat((sine[..., :half] * by_h, sine[..., half : self.dim] * by_w), dim=-1)
        return (result if index == 0 else result * self.query_scale(content)).to(content.dtype)


class DABTransformer(Transformer):
    """An encoder, and DAB-DETR's decoder.

    Args:
        encoder: over image tokens.
        decoder: over queries.
        dim: channels of the tokens.
        levels: see `Transformer`.
        num_patterns: learned content patterns; each is paired with every anchor (0: none).
    """

    def __init__(self, encoder: Encoder, decoder: DABDecoder, dim: int, levels: int = 0, num_patterns: int = 0) -> None:
        super().__init__(encoder, decoder, dim, levels)
        self.patterns = nn.Embedding(num_patterns, dim) if num_patterns else None
        self.start()
