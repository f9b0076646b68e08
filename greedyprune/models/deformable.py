"""Deformable DETR's Transformer (Zhu et al. 2021), with queries that are boxes or learned embeddings."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from greedyprune.models.deformable_attention import DeformableAttention, DeformableSelfAttention
from greedyprune.models.features import Features, Levels, Queries
from greedyprune.models.layers import MLP, EncoderLayer, Layer, LayerOptions, PackedSelfAttention, make_layers, present
from greedyprune.models.options import PyramidOptions
from greedyprune.models.position import BoxPositions
from greedyprune.models.transformer import Decoded, Decoder, Encoder, Transformer

# A proposal of the finest level is 0.05 of the image wide and high, and twice as large in every further one; those
# whose centre is nearer to the border than 0.01 are left out (Deformable DETR, appendix A.4).
PROPOSAL_SIZE, PROPOSAL_MARGIN = 0.05, 0.01


class DeformableEncoder(Encoder):
    """Encoder layers in which every token looks around itself in all levels.

    Args:
        options: of the detector.
        widths: `(attn, ffn)` of every layer; None: it is left out.
    """

    def __init__(self, options: PyramidOptions, widths: Sequence[tuple[int, ...] | None]) -> None:
        layer, places = options.layer, (options.num_feature_levels, options.enc_n_points)

        def make(index: int, each: tuple[int, ...]) -> EncoderLayer:
            return EncoderLayer(layer, each, DeformableSelfAttention(layer.dim, each[0], layer.heads, *places))

        super().__init__(make_layers(widths, make))

    def forward(self, features: Features) -> Tensor:
        x = features.tokens
        for _, layer in present(self.layers):
            x = layer(x, features.pos, features.pyramid)
        return x


class DeformableDecoderLayer(Layer):
    """Self-attention, deformable cross-attention and FFN, post-norm; the norms are numbered as published.

    Args:
        options: what it has in common with other layers.
        widths: of its self-attention, cross-attention (values) and FFN.
        levels: feature maps.
        points: points that a head samples in each.
    """

    def __init__(self, options: LayerOptions, widths: Sequence[int], levels: int, points: int) -> None:
        self_width, cross_width, ffn_width = widths
        super().__init__(options, ffn_width)
        dim, heads = options.dim, options.heads
        self.norm3 = nn.LayerNorm(dim)
        self.cross_attn = DeformableAttention(dim, cross_width, heads, levels, points)
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = PackedSelfAttention(dim, self_width, heads)
        self.norm2 = nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, memory: Tensor, *, pos: Tensor, reference: Tensor, levels: Levels, self_shown: Tensor | None
    ) -> Tensor:
        """The queries look at each other, then at the memory; then the FFN.

        Args:
            x: content of the queries `[B, N, dim]`.
            memory: `[B, M, dim]`.
            pos: position embedding of the queries `[B, N, dim]`.
            reference: `[B, N, L, 2 or 4]`; see `DeformableAttention`.
            levels: where the memory's tokens lie.
            self_shown: `[N, N]` bool, True where a query may look at another; None: everywhere.

        Returns:
            `[B, N, dim]`.
        """
        x = self.norm2(x + self.dropout(self.self_attn(x, pos, self_shown)))
        x = self.norm1(x + self.dropout(self.cross_attn(x + pos, memory, reference, levels)))
        return self.norm3(x + self.dropout(self.ffn(x)))


class DeformableDecoder(Decoder):
    """Decoder layers with a box head each, whose boxes the next layer may start from.

    Args:
        dim: channels of queries and memory.
        layers: the decoder layers.
        bbox_embed: a box head for every layer, shared with the detector.
        anchors: layers make their position embedding from their boxes (DAB-DETR, section 4.2), with so many hidden
            channels in its scale and in itself; None: all take the queries' own.
        refines: a layer starts from the boxes of the one before it, instead of all from the queries' references.
        eps: see `inverse_sigmoid`.
    """

    def __init__(
        self,
        dim: int,
        layers: Sequence[nn.Module],
        bbox_embed: nn.ModuleList,
        anchors: tuple[int, int] | None,
        refines: bool,
        eps: float,
    ) -> None:
        super().__init__(layers, eps)
        self.dim, self.refines = dim, refines
        self.query_scale = MLP(dim, (anchors[0],), dim) if anchors else None
        self.ref_point_head = MLP(2 * dim, (anchors[1],), dim) if anchors else None
        self.bbox_embed = bbox_embed
        self.positions = BoxPositions(dim // 2)

    def box_head(self, index: int) -> nn.Module:
        return self.bbox_embed[index]

    def forward(self, queries: Queries, memory: Tensor, features: Features, last_only: bool = False) -> list[Decoded]:
        content, reference = queries.content, queries.reference
        decoded, last = [], self.answering[-1]
        for index, layer in present(self.layers):
            scaled = features.pyramid.scale(reference)  # [B, N, L, 2 or 4]
            content = layer(
                content,
                memory,
                pos=self._positions(index, content, scaled[:, :, 0]) if queries.pos is None else queries.pos,
                reference=scaled,
                levels=features.pyramid,
                self_shown=queries.self_shown,
            )
            if index == last or not last_only:
                decoded.append(Decoded(index, content, reference))
            if self.refines and index != last:
                reference = self.refine(index, content, reference).detach()
        return decoded

    def _positions(self, index: int, content: Tensor, boxes: Tensor) -> Tensor:
        """`[B, N, dim]` of boxes `[B, N, 4]` in the first level, with its padding."""
        assert self.ref_point_head is not None
        assert self.query_scale is not None
        pos = self.ref_point_head(self.positions(boxes).to(content.dtype))
        return pos * self.query_scale(content) if index > 0 else pos


class DeformableTransformer(Transformer):
    """A deformable encoder and decoder, and what makes the second stage's queries.

    Args:
        encoder: over image tokens.
        decoder: over queries.
        options: of the detector.
        two_stage: queries start from proposals.
        points: learned queries tell their reference points.
    """

    def __init__(
        self, encoder: Encoder, decoder: Decoder, options: PyramidOptions, two_stage: bool, points: bool
    ) -> None:
        dim = options.hidden_dim
        super().__init__(encoder, decoder, dim, options.num_feature_levels)
        self.positions = BoxPositions(dim // 2)
        if two_stage:
            self.enc_output = nn.Linear(dim, dim)
            self.enc_output_norm = nn.LayerNorm(dim)
            self.pos_trans = nn.Linear(2 * dim, 2 * dim)
            self.pos_trans_norm = nn.LayerNorm(2 * dim)
        elif points:
            self.reference_points = nn.Linear(dim, 2)
            nn.init.zeros_(self.reference_points.bias)
        self.start()

    def propose(self, memory: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """What the proposal heads read of every token `[B, M, dim]`, and its box before the sigmoid `[B, M, 4]`.

        A token that is padding, or too near to the border, has zeros and infinity.
        """
        sizes = torch.cat(
            [
                levels.centres.new_full((height * width,), PROPOSAL_SIZE * 2**level)
                for level, (height, width) in enumerate(levels.shapes)
            ]
        )
        boxes = torch.cat((levels.centres, sizes[:, None].expand(len(memory), -1, 2)), dim=-1)  # [B, M, 4]
        inside = ((boxes > PROPOSAL_MARGIN) & (boxes < 1 - PROPOSAL_MARGIN)).all(-1, keepdim=True)
        if levels.shown is not None:
            inside = inside & levels.shown[..., None]
        logits = torch.log(boxes / (1 - boxes)).masked_fill(~inside, torch.inf)
        return self.enc_output_norm(self.enc_output(memory.masked_fill(~inside, 0.0))), logits

    def embed_proposals(self, boxes: Tensor) -> Tensor:
        """Position and content `[B, N, 2 * dim]` of proposals `[B, N, 4]` (cxcywh)."""
        sine = self.positions(boxes[..., [1, 0, 2, 3]])  # ordered x, y, w, h
        return self.pos_trans_norm(self.pos_trans(sine.to(self.pos_trans.weight.dtype)))
