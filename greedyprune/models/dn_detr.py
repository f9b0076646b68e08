"""DN-DETR: DAB-DETR trained with query denoising (Li et al. 2022)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from greedyprune.cfgs import Cfgs
from greedyprune.models.backbone import Backbone
from greedyprune.models.batch import ImageBatch, as_batch
from greedyprune.models.dab import DABDecoder, DABEncoder, DABTransformer
from greedyprune.models.detector import Detector
from greedyprune.models.features import Features, Queries
from greedyprune.models.layers import MLP, DecoderLayer, EncoderLayer
from greedyprune.models.options import DABOptions, DNDETROptions, ModelInfo
from greedyprune.models.position import image_positions
from greedyprune.models.transformer import Encoder, inverse_sigmoid


class DABDetector(Detector):
    """Anchor boxes as queries, DAB-DETR's decoder, and denoising in training.

    Args:
        options: everything else that gives it its shape.
        cfgs: a width for every site; None: dense.
        info: what its labels mean.
    """

    options: DABOptions
    transformer: DABTransformer
    label_enc: nn.Embedding

    def __init__(self, options: DABOptions, cfgs: Cfgs | None = None, info: ModelInfo | None = None) -> None:
        super().__init__(options, cfgs, info)
        dim = options.hidden_dim
        bbox_embed = MLP(dim, dim, 4, 3)
        encoder = self._encoder()
        layers = [DecoderLayer(options.layer, each, index == 0) for index, each in enumerate(self.cfgs.decoder)]
        decoder = DABDecoder(dim, layers, bbox_embed)
        self.transformer = DABTransformer(encoder, decoder, dim, self._levels(), options.num_patterns)
        # Registered after the decoder, which shares it: of the two names in a state dict the detector's own one counts.
        self.bbox_embed = bbox_embed
        for parameter in self.bbox_embed.layers[-1].parameters():
            nn.init.zeros_(parameter)  # every box starts as its anchor
        self.class_embed = nn.Linear(dim, options.num_classes)
        # Focal loss starts from a foreground probability of 0.01 (Lin et al. 2017, section 4.1).
        nn.init.constant_(self.class_embed.bias, -math.log((1 - 0.01) / 0.01))
        # One row a class and one for "unknown"; the last channel of a query marks denoising queries.
        self.label_enc = nn.Embedding(options.num_classes + 1, dim - 1)
        self.refpoint_embed = anchors(options.num_queries, options.random_refpoints_xy)

    def _encoder(self) -> Encoder:
        raise NotImplementedError

    def _levels(self) -> int:
        """How many levels the Transformer tells apart; see `Transformer`."""
        return 0

    @property
    def class_heads(self) -> list[nn.Linear]:
        return [self.class_embed]

    def queries(self, features: Features, memory: Tensor) -> Queries:
        reference = self.refpoint_embed.weight
        unknown = self.label_enc.weight[self.options.num_classes]
        content = torch.cat((unknown, unknown.new_zeros(1))).expand(len(reference), -1)
        if self.transformer.patterns is not None:
            patterns = self.transformer.patterns.weight  # [P, dim]
            content = (content + patterns[:, None]).flatten(0, 1)  # [P * Q, dim]
            reference = reference.repeat(len(patterns), 1)
        batch = len(memory)
        return Queries(content.expand(batch, -1, -1), reference.sigmoid().expand(batch, -1, -1))

    def predict(self, hidden: list[Tensor], references: list[Tensor]) -> tuple[Tensor, Tensor]:
        states = torch.stack(hidden)
        return self.class_embed(states), self.transformer.decoder.refine(0, states, torch.stack(references))


class DNDETR(DABDetector):
    """DN-DETR: one feature level, and an encoder in which every token looks at every token."""

    options: DNDETROptions

    def __init__(self, options: DNDETROptions, cfgs: Cfgs | None = None, info: ModelInfo | None = None) -> None:
        super().__init__(options, cfgs, info)
        backbone = Backbone(options.backbone, options.dilation, widths=self.cfgs.backbone)
        self.backbone = nn.Sequential(backbone)
        self.input_proj = nn.Conv2d(backbone.channels, options.hidden_dim, 1)

    def _encoder(self) -> Encoder:
        options = self.options
        layers = [EncoderLayer(options.layer, widths) for widths in self.cfgs.encoder]
        return DABEncoder(options.hidden_dim, layers, options.pre_norm)

    def features(self, images: Sequence[Tensor] | ImageBatch | Tensor) -> Features:
        batch = as_batch(images)
        maps, mask = self.backbone(batch)
        shape = (maps.shape[0], *maps.shape[-2:])
        padding = mask if mask is not None else torch.zeros(shape, dtype=torch.bool, device=maps.device)
        options = self.options
        pos = image_positions(padding, options.hidden_dim, options.temperature_h, options.temperature_w)
        tokens = self.input_proj(maps).flatten(2).transpose(1, 2)  # [B, M, dim]
        return Features(tokens, pos.to(tokens.dtype), None if mask is None else ~mask.flatten(1)[:, None, None])


def anchors(count: int, random_xy: bool = False) -> nn.Embedding:
    """Learned boxes `[count, 4]` before the sigmoid; with `random_xy` their centres start spread evenly."""
    boxes = nn.Embedding(count, 4)
    if random_xy:
        with torch.no_grad():
            boxes.weight[:, :2] = inverse_sigmoid(torch.rand(count, 2))
    return boxes
