"""Deformable DETR (Zhu et al. 2021) and DN-Deformable-DETR (Li et al. 2022), one-stage and two-stage."""

import copy
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from greedyprune.cfgs import Cfgs
from greedyprune.models.backbone import Backbone
from greedyprune.models.batch import ImageBatch, as_batch
from greedyprune.models.deformable import (
    DeformableDecoder,
    DeformableDecoderLayer,
    DeformableEncoder,
    DeformableTransformer,
)
from greedyprune.models.detector import Detector
from greedyprune.models.dn_detr import DABDetector, anchors
from greedyprune.models.features import Features, Queries
from greedyprune.models.layers import MLP
from greedyprune.models.options import (
    DeformableDecoderOptions,
    DeformableOptions,
    DetectorOptions,
    DNDeformableEncoderOptions,
    DNDeformableOptions,
    ModelInfo,
    PyramidOptions,
)
from greedyprune.models.pyramid import LevelProjections, pyramid_features
from greedyprune.models.transformer import EPS, Encoder


class PyramidDetector(Detector):
    """Several feature levels: the backbone's, and coarser ones made of its last.

    Args:
        options: everything else that gives it its shape.
        cfgs: a width for every site; None: dense.
        info: what its labels mean.
    """

    options: PyramidOptions
    # Whether a cell's position is its centre or its number; see `image_positions`.
    position_offset = 0.0

    def __init__(self, options: DetectorOptions, cfgs: Cfgs | None = None, info: ModelInfo | None = None) -> None:
        super().__init__(options, cfgs, info)
        levels = self.options.num_feature_levels
        backbone = Backbone(options.backbone, options.dilation, levels, self.cfgs.backbone)
        self.backbone = nn.Sequential(backbone)
        self.input_proj = LevelProjections(backbone.level_channels, options.hidden_dim, levels)

    @property
    def strides(self) -> tuple[int, ...]:
        own = self.feature_extractor.level_strides
        coarser = range(1, self.options.num_feature_levels - len(own) + 1)
        return (*own, *(own[-1] * 2**step for step in coarser))

    def features(self, images: Sequence[Tensor] | ImageBatch | Tensor) -> Features:
        batch = as_batch(images)
        maps = self.input_proj(self.feature_extractor.pyramid(batch))
        temperatures = self.options.temperature_h, self.options.temperature_w
        assert self.transformer.level_embed is not None
        return pyramid_features(maps, batch, self.transformer.level_embed, temperatures, self.position_offset)


class DNDeformableEncoderDETR(PyramidDetector, DABDetector):
    """DN-DETR with a deformable encoder: every query looks at all tokens of all levels."""

    options: DNDeformableEncoderOptions

    def _encoder(self) -> Encoder:
        return DeformableEncoder(self.options, self.cfgs.encoder)

    def _levels(self) -> int:
        return self.options.num_feature_levels


class DeformableDetector(PyramidDetector):
    """Deformable encoder and decoder, with heads for every decoder layer.

    Args:
        options: everything else that gives it its shape.
        cfgs: a width for every site; None: dense.
        info: what its labels mean.
    """

    options: DeformableDecoderOptions
    transformer: DeformableTransformer
    position_offset = -0.5
    # Queries are boxes, of which every decoder layer makes its position embedding; else they are learned embeddings.
    anchored = False
    eps = EPS

    def __init__(
        self, options: DeformableDecoderOptions, cfgs: Cfgs | None = None, info: ModelInfo | None = None
    ) -> None:
        super().__init__(options, cfgs, info)
        dim = options.hidden_dim
        places = options.num_feature_levels, options.dec_n_points
        layers = [DeformableDecoderLayer(options.layer, widths, *places) for widths in self.cfgs.decoder]
        bbox_embed = self._heads(MLP(dim, dim, 4, 3))
        self.transformer = DeformableTransformer(
            DeformableEncoder(options, self.cfgs.encoder),
            DeformableDecoder(dim, layers, bbox_embed, self.anchored, options.refines, self.eps),
            options,
            options.two_stage,
            points=not self.anchored,
        )
        self.bbox_embed = bbox_embed  # of the two names in a state dict the detector's own one counts
        for index, head in enumerate(cast("list[MLP]", list(bbox_embed))):
            last = head.layers[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)  # every box starts as its reference
            nn.init.zeros_(last.bias)
            if index == 0 and not options.two_stage:
                nn.init.constant_(last.bias[2:], -2.0)  # and small, as published
        # Focal loss starts from a foreground probability of 0.01 (Lin et al. 2017, section 4.1).
        classes = nn.Linear(dim, options.num_classes)
        nn.init.constant_(classes.bias, -math.log((1 - 0.01) / 0.01))
        self.class_embed = self._heads(classes)

    def _heads(self, head: nn.Module) -> nn.ModuleList:
        """A head for every decoder layer and the proposals: each its own, or one under all names."""
        count = self.options.dec_layers + self.options.two_stage
        return nn.ModuleList(copy.deepcopy(head) if self.options.refines else head for _ in range(count))

    @property
    def class_heads(self) -> list[nn.Linear]:
        heads = cast("list[nn.Linear]", list(self.class_embed))
        own = heads[: self.options.dec_layers]
        return own if self.options.refines else own[:1]

    @property
    def proposal_head(self) -> nn.Linear | None:
        return cast(nn.Linear, self.class_embed[-1]) if self.options.two_stage else None

    def predict(self, hidden: list[Tensor], references: list[Tensor]) -> tuple[Tensor, Tensor]:
        first = self.options.dec_layers - len(hidden)
        logits, boxes = [], []
        for index, (states, reference) in enumerate(zip(hidden, references, strict=True), start=first):
            logits.append(self.class_embed[index](states))
            boxes.append(self.transformer.decoder.refine(index, states, reference))
        return torch.stack(logits), torch.stack(boxes)

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
        count = min(self.options.num_queries, boxes.shape[1])
        best = logits[..., 0].topk(count, dim=1).indices  # whether there is an object is what class 0 says here
        reference = boxes.gather(1, best[..., None].expand(-1, -1, 4)).detach().sigmoid()  # [B, Q, 4]
        pos, content = self.transformer.embed_proposals(reference).chunk(2, dim=-1)
        if self.anchored:
            content = torch.cat((content[..., :-1], torch.zeros_like(content[..., :1])), dim=-1)
        proposals = {"pred_logits": logits, "pred_boxes": boxes.sigmoid()}
        return Queries(content, reference, None if self.anchored else pos, proposals)


class DNDeformableDETR(DeformableDetector):
    """DN-Deformable-DETR: anchor boxes as queries, iterative refinement, and denoising in training.

    With `two_stage` the queries' content and boxes are those of Deformable DETR's second stage; the content's last
    channel, which marks denoising queries, is 0.
    """

    options: DNDeformableOptions
    label_enc: nn.Embedding
    anchored = True

    def __init__(self, options: DNDeformableOptions, cfgs: Cfgs | None = None, info: ModelInfo | None = None) -> None:
        super().__init__(options, cfgs, info)
        self.label_enc = nn.Embedding(options.num_classes + 1, options.hidden_dim - 1)
        if not options.two_stage:
            self.tgt_embed = nn.Embedding(options.num_queries, options.hidden_dim - 1)
            self.refpoint_embed = anchors(options.num_queries, options.random_refpoints_xy)

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

    def __init__(self, options: DeformableOptions, cfgs: Cfgs | None = None, info: ModelInfo | None = None) -> None:
        super().__init__(options, cfgs, info)
        if not options.two_stage:
            self.query_embed = nn.Embedding(options.num_queries, 2 * options.hidden_dim)

    def _learned(self, batch: int) -> Queries:
        pos, content = self.query_embed.weight.chunk(2, dim=-1)
        reference = self.transformer.reference_points(pos).sigmoid()  # [Q, 2]
        content, reference, pos = (x.expand(batch, -1, -1) for x in (content, reference.float(), pos))
        return Queries(content, reference, pos)
