"""Deformable DETR (Zhu et al. 2021) and DN-Deformable-DETR (Li et al. 2022), one-stage and two-stage."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.boxes import EPS
from greedyprune.models.backbone import Backbone, shrink_padding
from greedyprune.models.batch import ImageBatch
from greedyprune.models.deformable import (
    DeformableDecoder,
    DeformableDecoderLayer,
    DeformableEncoder,
    DeformableTransformer,
)
from greedyprune.models.detector import Detector
from greedyprune.models.dn_detr import DABDetector, anchors
from greedyprune.models.features import Features, Queries
from greedyprune.models.layers import MLP, DecoderLayer, Skipped, make_layers, present
from greedyprune.models.layout import QUERIES, box_sites, mlp_site
from greedyprune.models.level_attention import LevelDecoderLayer
from greedyprune.models.options import (
    DeformableDecoderOptions,
    DeformableOptions,
    DetectorOptions,
    DNDeformableEncoderOptions,
    DNDeformableOptions,
    ModelInfo,
    PyramidOptions,
)
from greedyprune.models.position import ImagePositions
from greedyprune.models.pyramid import LevelProjections, pyramid_features
from greedyprune.models.transformer import Encoder


class PyramidDetector(Detector):
    """Several feature levels: the backbone's, and coarser ones made of its last.

    Args:
        options: everything else that gives it its shape.
        widths: see `Detector`.
        info: what its labels mean.
    """

    options: PyramidOptions
    # Whether the position of a cell is its centre or its number; see `image_positions`.
    position_offset = 0.0

    def __init__(
        self, options: DetectorOptions, widths: Mapping[str, int] | None = None, info: ModelInfo | None = None
    ) -> None:
        super().__init__(options, widths, info)
        levels, layout = self.options.num_feature_levels, options.layout
        inner = layout.backbone.numbers(layout.check(widths or {}))
        backbone = Backbone(options.backbone, options.dilation, levels, inner)
        self.backbone = nn.Sequential(backbone)
        self.input_proj = LevelProjections(backbone.level_channels, options.hidden_dim, levels)
        temperatures = self.options.temperature_h, self.options.temperature_w
        self.positions = ImagePositions(options.hidden_dim, *temperatures, self.position_offset)

    @property
    def strides(self) -> tuple[int, ...]:
        own = self.feature_extractor.level_strides
        coarser = range(1, self.options.num_feature_levels - len(own) + 1)
        return (*own, *(own[-1] * 2**step for step in coarser))

    def padding(self, images: ImageBatch, size: torch.Size) -> Tensor | None:
        return None if images.padding is None else shrink_padding(images.padding, size)

    def features(self, images: ImageBatch) -> Features:
        maps = self.input_proj(self.backbone(images))
        assert self.transformer.level_embed is not None
        padding = [self.padding(images, level.shape[-2:]) for level in maps]
        return pyramid_features(maps, padding, self.transformer.level_embed, self.positions)


class DNDeformableEncoderDETR(PyramidDetector, DABDetector):
    """DN-DETR with a deformable encoder: every query looks at all tokens, of all levels together or level by level."""

    options: DNDeformableEncoderOptions

    def _encoder(self, widths: Mapping[str, int]) -> Encoder:
        return DeformableEncoder(self.options, self.options.layout.encoder.layers(widths))

    def _decoder_layer(self, index: int, widths: tuple[int, ...]) -> DecoderLayer:
        if self.options.level_attention:
            return LevelDecoderLayer(self.options.layer, widths, index == 0, self.options.num_feature_levels)
        return super()._decoder_layer(index, widths)

    def _levels(self) -> int:
        return self.options.num_feature_levels


class DeformableDetector(PyramidDetector):
    """Deformable encoder and decoder, with heads for every decoder layer.

    Args:
        options: everything else that gives it its shape.
        widths: see `Detector`.
        info: what its labels mean.
    """

    options: DeformableDecoderOptions
    transformer: DeformableTransformer
    position_offset = -0.5
    # Queries are boxes, of which every decoder layer makes its position embedding; else they are learned embeddings.
    anchored = False
    eps = EPS

    def __init__(
        self, options: DeformableDecoderOptions, widths: Mapping[str, int] | None = None, info: ModelInfo | None = None
    ) -> None:
        super().__init__(options, widths, info)
        layout, dim = options.layout, options.hidden_dim
        full = layout.check(widths or {})
        places = options.num_feature_levels, options.dec_n_points
        layers = make_layers(
            layout.decoder.layers(full), lambda _, each: DeformableDecoderLayer(options.layer, each, *places)
        )
        # The numbers of the heads, and the widths of each one's box head; a layer that is gone takes its own along.
        heads = [*range(options.dec_layers + options.two_stage)]
        hidden = [tuple(full[name] for name in box_sites(head if options.refines else None)) for head in heads]
        gone = [head for head in heads if not hidden[head][0]]
        boxes = {each: MLP(dim, each, 4) for each in dict.fromkeys(hidden) if each[0]}
        bbox_embed = self._heads(gone, lambda head: boxes[hidden[head]])
        anchors = None
        if self.anchored:
            anchors = full[mlp_site("decoder", "query_scale")], full[mlp_site("decoder", "ref_point_head")]
        self.transformer = DeformableTransformer(
            DeformableEncoder(options, layout.encoder.layers(full)),
            DeformableDecoder(dim, layers, bbox_embed, anchors, options.refines, self.eps),
            options,
            options.two_stage,
            points=not self.anchored,
        )
        self.bbox_embed = bbox_embed  # of the two names in a state dict the detector's own one counts
        for index, head in present(bbox_embed):
            last = cast(MLP, head).layers[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)  # every box starts as its reference
            nn.init.zeros_(last.bias)
            if index == 0 and not options.two_stage:
                nn.init.constant_(last.bias[2:], -2.0)  # and small, as published
        # Focal loss starts from a foreground probability of 0.01 (Lin et al. 2017, section 4.1).
        classes = nn.Linear(dim, options.num_classes)
        nn.init.constant_(classes.bias, -math.log((1 - 0.01) / 0.01))
        self.class_embed = self._heads(gone, lambda _: classes)

    def _heads(self, gone: list[int], head_of: Callable[[int], nn.Module]) -> nn.ModuleList:
        """A head for every decoder layer and the proposals: copies, or where layers share one the same throughout."""
        heads = range(self.options.dec_layers + self.options.two_stage)
        made = (Skipped() if head in gone else head_of(head) for head in heads)
        return nn.ModuleList(copy.deepcopy(head) if self.options.refines else head for head in made)

    def classify(self, index: int, states: Tensor) -> Tensor:
        return self.class_embed[index](states)

    @property
    def class_heads(self) -> list[nn.Linear]:
        own = [cast(nn.Linear, self.class_embed[layer]) for layer in self.transformer.decoder.answering]
        return own if self.options.refines else own[:1]

    @property
    def proposal_head(self) -> nn.Linear | None:
        return cast(nn.Linear, self.class_embed[-1]) if self.options.two_stage else None

    def queries(self, features: Features, memory: Tensor) -> Queries:
        if self.options.two_stage:
            return self._second_stage(features, memory)
        return self._learned(len(memory))

    def _learned(self, batch: int) -> Queries:
        """The queries of a one-stage detector."""
        raise NotImplementedError

    def _second_stage(self, features: Features, memory: Tensor) -> Queries:
        """Queries at the boxes that the proposal heads like best (Deformable DETR, appendix A.4)."""
        tokens, starts = self.transformer.propose(memory, features.pyramid)
        logits = self.class_embed[-1](tokens)
        boxes = self.bbox_embed[-1](tokens).float() + starts  # [B, M, 4] before the sigmoid
        count = min(self.num_proposals, boxes.shape[1])
        best = logits[..., 0].topk(count, dim=1).indices  # whether there is an object is what class 0 says here
        reference = boxes.gather(1, best[..., None].expand(-1, -1, 4)).detach().sigmoid()  # [B, Q, 4]
        pos, content = self.transformer.embed_proposals(reference).chunk(2, dim=-1)
        if self.anchored:
            content = torch.cat((content[..., :-1], torch.zeros_like(content[..., :1])), dim=-1)
        proposals = Answer(logits, boxes.sigmoid())
        return Queries(content, reference, None if self.anchored else pos, proposals)


class DNDeformableDETR(DeformableDetector):
    """DN-Deformable-DETR: anchor boxes as queries, iterative refinement, and denoising in training.

    With `two_stage` the queries' content and boxes are those of Deformable DETR's second stage; the content's last
    channel, which marks denoising queries, is 0.
    """

    options: DNDeformableOptions
    label_enc: nn.Embedding
    anchored = True

    def __init__(
        self, options: DNDeformableOptions, widths: Mapping[str, int] | None = None, info: ModelInfo | None = None
    ) -> None:
        super().__init__(options, widths, info)
        self.label_enc = nn.Embedding(options.num_classes + 1, options.hidden_dim - 1)
        if not options.two_stage:
            queries = options.layout.check(widths or {})[QUERIES]
            self.tgt_embed = nn.Embedding(queries, options.hidden_dim - 1)
            self.refpoint_embed = anchors(queries, options.random_refpoints_xy)

    @property
    def query_tables(self) -> tuple[nn.Embedding, ...]:
        return () if self.options.two_stage else (self.tgt_embed, self.refpoint_embed)

    def queries(self, features: Features, memory: Tensor) -> Queries:
        made = super().queries(features, memory)
        # A batch without targets has no denoising: this keeps the embedding among what data-parallel training reduces.
        return made._replace(content=made.content + 0 * self.label_enc.weight[0, 0])

    def _learned(self, batch: int) -> Queries:
        content = torch.cat((self.tgt_embed.weight, self.tgt_embed.weight.new_zeros(len(self.tgt_embed.weight), 1)), 1)
        return Queries(content.expand(batch, -1, -1), self.refpoint_embed.weight.sigmoid().expand(batch, -1, -1))


class DeformableDETR(DeformableDetector):
    """Deformable DETR: learned embeddings as queries, trained without denoising."""

    options: DeformableOptions
    eps = 1e-5

    def __init__(
        self, options: DeformableOptions, widths: Mapping[str, int] | None = None, info: ModelInfo | None = None
    ) -> None:
        super().__init__(options, widths, info)
        if not options.two_stage:
            queries = options.layout.check(widths or {})[QUERIES]
            self.query_embed = nn.Embedding(queries, 2 * options.hidden_dim)

    @property
    def query_tables(self) -> tuple[nn.Embedding, ...]:
        return () if self.options.two_stage else (self.query_embed,)

    def _learned(self, batch: int) -> Queries:
        pos, content = self.query_embed.weight.chunk(2, dim=-1)
        reference = self.transformer.reference_points(pos).sigmoid()  # [Q, 2]
        content, reference, pos = (x.expand(batch, -1, -1) for x in (content, reference.float(), pos))
        return Queries(content, reference, pos)
