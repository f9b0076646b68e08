"""DN-DETR: DAB-DETR trained with query denoising (Li et al. 2022)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from greedyprune.boxes import inverse_sigmoid
from greedyprune.models.backbone import Backbone
from greedyprune.models.batch import ImageBatch
from greedyprune.models.dab import DABDecoder, DABEncoder, DABTransformer
from greedyprune.models.detector import Detector
from greedyprune.models.features import Features, Queries
from greedyprune.models.layers import MLP, DecoderLayer, EncoderLayer, make_layers
from greedyprune.models.layout import QUERIES, box_sites, mlp_site
from greedyprune.models.options import DABOptions, DNDETROptions, ModelInfo
from greedyprune.models.position import ImagePositions
from greedyprune.models.transformer import Encoder


class DABDetector(Detector):
    """Anchor boxes as queries, DAB-DETR's decoder, and denoising in training.

    Args:
        options: everything else that gives it its shape.
        widths: see `Detector`.
        info: what its labels mean.
    """

    options: DABOptions
    transformer: DABTransformer
    label_enc: nn.Embedding

    def __init__(
        self, options: DABOptions, widths: Mapping[str, int] | None = None, info: ModelInfo | None = None
    ) -> None:
        super().__init__(options, widths, info)
        layout, dim = options.layout, options.hidden_dim
        full = layout.check(widths or {})
        bbox_embed = MLP(dim, [full[name] for name in box_sites(None)], 4)
        encoder = self._encoder(full)
        decoder = DABDecoder(
            dim,
            make_layers(layout.decoder.layers(full), self._decoder_layer),
            bbox_embed,
            scale_width=full[mlp_site("decoder", "query_scale")],
            point_width=full[mlp_site("decoder", "ref_point_head")],
            anchor_width=full[mlp_site("decoder", "ref_anchor_head")],
        )
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
        self.refpoint_embed = anchors(full[QUERIES], options.random_refpoints_xy)

    def _encoder(self, widths: Mapping[str, int]) -> Encoder:
        """The encoder, with the widths of all sites."""
        raise NotImplementedError

    def _decoder_layer(self, index: int, widths: tuple[int, ...]) -> DecoderLayer:
        return DecoderLayer(self.options.layer, widths, index == 0)

    def _levels(self) -> int:
        """How many levels the Transformer tells apart; see `Transformer`."""
        return 0

    @property
    def class_heads(self) -> list[nn.Linear]:
        return [self.class_embed]

    @property
    def query_tables(self) -> tuple[nn.Embedding, ...]:
        return (self.refpoint_embed,)

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

    def classify(self, index: int, states: Tensor) -> Tensor:
        return self.class_embed(states)


class DNDETR(DABDetector):
    """DN-DETR: one feature level, and an encoder in which every token looks at every token."""

    options: DNDETROptions

    def __init__(
        self, options: DNDETROptions, widths: Mapping[str, int] | None = None, info: ModelInfo | None = None
    ) -> None:
        super().__init__(options, widths, info)
        layout = options.layout
        inner = layout.backbone.numbers(layout.check(widths or {}))
        backbone = Backbone(options.backbone, options.dilation, widths=inner)
        self.backbone = nn.Sequential(backbone)
        self.input_proj = nn.Conv2d(backbone.channels, options.hidden_dim, 1)
        self.positions = ImagePositions(options.hidden_dim, options.temperature_h, options.temperature_w)

    def _encoder(self, widths: Mapping[str, int]) -> Encoder:
        options = self.options
        layers = make_layers(options.layout.encoder.layers(widths), self._encoder_layer)
        scale_width = widths[mlp_site("encoder", "query_scale")]
        return DABEncoder(options.hidden_dim, layers, scale_width, options.pre_norm)

    def _encoder_layer(self, index: int, widths: tuple[int, ...]) -> EncoderLayer:
        return EncoderLayer(self.options.layer, widths)

    def features(self, images: ImageBatch) -> Features:
        maps = self.backbone(images)[-1]
        padding = self.padding(images, maps.shape[-2:])  # [B, h, w]
        shown = None if padding is None else ~padding.flatten(1)[:, None, None]
        if padding is None:
            padding = torch.zeros(maps.shape[0], *maps.shape[-2:], dtype=torch.bool, device=maps.device)
        tokens = self.input_proj(maps).flatten(2).transpose(1, 2)  # [B, M, dim]
        return Features(tokens, self.positions(padding).to(tokens.dtype), shown)


def anchors(count: int, random_xy: bool = False) -> nn.Embedding:
    """Learned boxes `[count, 4]` before the sigmoid; with `random_xy` their centres start spread evenly."""
    boxes = nn.Embedding(count, 4)
    if random_xy:
        with torch.no_grad():
            boxes.weight[:, :2] = inverse_sigmoid(torch.rand(count, 2))
    return boxes
