"""DAB-DETR's Transformer: attention over image tokens, and a decoder that refines one box for each query."""

from typing import cast

import torch
from torch import Tensor, nn

from greedyprune.models.features import Features, Queries
from greedyprune.models.layers import MLP, DecoderLayer, EncoderLayer
from greedyprune.models.position import box_positions
from greedyprune.models.transformer import Decoder, Encoder, Transformer


class DABEncoder(Encoder):
    """Encoder layers; each scales the position embedding by a function of its input (DAB-DETR, section 4.1).

    Args:
        dim: channels of the tokens.
        layers: the encoder layers.
        norm: a LayerNorm after the last of them.
    """

    def __init__(self, dim: int, layers: list[EncoderLayer], norm: bool = False) -> None:
        super().__init__(layers)
        self.norm = nn.LayerNorm(dim) if norm else None
        self.query_scale = MLP(dim, dim, dim, 2)

    def attend(self, index: int, x: Tensor, features: Features) -> Tensor:
        return cast(EncoderLayer, self.layers[index]).attend(x, features.pos * self.query_scale(x), features.mask)

    def feed(self, index: int, x: Tensor) -> Tensor:
        x = super().feed(index, x)
        return x if self.norm is None or index + 1 < len(self.layers) else self.norm(x)


class DABDecoder(Decoder):
    """Decoder layers with modulated attention and iterative box refinement.

    References keep their gradient, so that a layer's box loss reaches the layer before it, as in the published model.

    Args:
        dim: channels of queries and memory.
        layers: the decoder layers; the first one has `ca_qpos_proj`.
        bbox_embed: the box head, shared with the detector.
    """

    def __init__(self, dim: int, layers: list[DecoderLayer], bbox_embed: MLP) -> None:
        super().__init__(layers, nn.LayerNorm(dim))
        self.query_scale = MLP(dim, dim, dim, 2)
        self.ref_point_head = MLP(2 * dim, dim, dim, 2)
        self.ref_anchor_head = MLP(dim, dim, 2, 2)
        self.bbox_embed = bbox_embed
        self.dim = dim

    def box_head(self, index: int) -> MLP:
        return self.bbox_embed

    def follow(self, index: int, content: Tensor, reference: Tensor) -> Tensor:
        return self.refine(index, content, reference)

    def attend(
        self, index: int, content: Tensor, reference: Tensor, memory: Tensor, features: Features, queries: Queries
    ) -> Tensor:
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
            pos=features.pos,
            query_pos=query_pos,
            query_sine=query_sine.to(content.dtype),
            self_mask=queries.self_mask,
            memory_mask=features.mask,
        )


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
