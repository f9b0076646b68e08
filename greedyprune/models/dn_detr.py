"""DN-DETR: DAB-DETR trained with query denoising (Li et al. 2022)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from greedyprune.cfgs import Cfgs, check_cfgs
from greedyprune.models.backbone import Backbone
from greedyprune.models.batch import ImageBatch, as_batch
from greedyprune.models.denoising import Denoising, DenoisingQueries, denoising_queries
from greedyprune.models.layers import MLP
from greedyprune.models.matcher import Target
from greedyprune.models.options import DNDETROptions, ModelInfo
from greedyprune.models.position import image_positions
from greedyprune.models.transformer import Transformer, inverse_sigmoid

Outputs = dict[str, Any]


class Features(NamedTuple):
    """What the Transformer gets of a batch of images.

    Attributes:
        tokens: `[B, M, dim]` projected backbone features.
        pos: `[B, M, dim]` their position embedding.
        mask: `[B, 1, 1, M]` bool, True where there is image; None: everywhere.
    """

    tokens: Tensor
    pos: Tensor
    mask: Tensor | None


class DNDETR(nn.Module):
    """A detector whose Transformer has the widths of `cfgs`.

    Args:
        options: everything else that gives it its shape.
        cfgs: a width for every site; None: dense.
        info: what its labels mean.

    Raises:
        UserError: widths that do not fit the options.
    """

    def __init__(self, options: DNDETROptions, cfgs: Cfgs | None = None, info: ModelInfo | None = None) -> None:
        super().__init__()
        self.options = options
        self.cfgs = check_cfgs(cfgs or options.dense_cfgs(), options.dense_cfgs(), options.heads)
        self.info = info or ModelInfo()
        dim = options.hidden_dim
        bbox_embed = MLP(dim, dim, 4, 3)
        self.transformer = Transformer(
            dim,
            options.heads,
            self.cfgs,
            bbox_embed,
            options.num_patterns,
            options.activation,
            options.dropout,
            options.pre_norm,
        )
        # Registered after the decoder, which shares it: of the two names in a state dict the detector's own one counts.
        self.bbox_embed = bbox_embed
        for parameter in self.bbox_embed.layers[-1].parameters():
            nn.init.zeros_(parameter)  # every box starts as its anchor
        self.class_embed = nn.Linear(dim, options.num_classes)
        # Focal loss starts from a foreground probability of 0.01 (Lin et al. 2017, section 4.1).
        nn.init.constant_(self.class_embed.bias, -math.log((1 - 0.01) / 0.01))
        # One row a class and one for "unknown"; the last channel of a query marks denoising queries.
        self.label_enc = nn.Embedding(options.num_classes + 1, dim - 1)
        self.refpoint_embed = nn.Embedding(options.num_queries, 4)
        backbone = Backbone(options.backbone, options.dilation)
        self.backbone = nn.Sequential(backbone)  # published checkpoints call it backbone.0
        self.input_proj = nn.Conv2d(backbone.channels, dim, 1)
        if options.random_refpoints_xy:
            with torch.no_grad():
                self.refpoint_embed.weight[:, :2] = inverse_sigmoid(torch.rand(options.num_queries, 2))

    def train(self, mode: bool = True) -> "DNDETR":
        super().train(mode)
        if self.options.freeze_norm:
            for module in self.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def features(self, images: Sequence[Tensor] | ImageBatch | Tensor) -> Features:
        """The part before the Transformer: backbone, projection and position embedding."""
        batch = as_batch(images)
        maps, mask = self.backbone(batch)
        shape = (maps.shape[0], *maps.shape[-2:])
        padding = mask if mask is not None else torch.zeros(shape, dtype=torch.bool, device=maps.device)
        options = self.options
        pos = image_positions(padding, options.hidden_dim, options.temperature_h, options.temperature_w)
        tokens = self.input_proj(maps).flatten(2).transpose(1, 2)  # [B, M, dim]
        return Features(tokens, pos.to(tokens.dtype), None if mask is None else ~mask.flatten(1)[:, None, None])

    def queries(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Matching queries: content `[B, Q, dim]` and reference boxes `[B, Q, 4]`."""
        reference = self.refpoint_embed.weight
        unknown = self.label_enc.weight[self.options.num_classes]
        content = torch.cat((unknown, unknown.new_zeros(1))).expand(len(reference), -1)
        if self.transformer.patterns is not None:
            patterns = self.transformer.patterns.weight  # [P, dim]
            content = (content + patterns[:, None]).flatten(0, 1)  # [P * Q, dim]
            reference = reference.repeat(len(patterns), 1)
        return content.expand(batch_size, -1, -1), reference.sigmoid().expand(batch_size, -1, -1)

    def predict(self, hidden: list[Tensor], references: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Hidden states and references of L decoder layers to logits `[L, B, N, C]` and boxes `[L, B, N, 4]`."""
        states = torch.stack(hidden)
        return self.class_embed(states), self.transformer.decoder.refine(states, torch.stack(references))

    def detect(
        self, features: Features, targets: list[Target] | None = None, denoising: Denoising | None = None
    ) -> Outputs:
        """The part from the Transformer on; see `forward`."""
        content, reference = self.queries(len(features.tokens))
        noised: DenoisingQueries | None = None
        if targets is not None and denoising is not None:
            noised = denoising_queries(targets, denoising, self.label_enc, self.options.num_classes, content.shape[1])
        self_mask = None
        if noised is not None:
            content = torch.cat((noised.content.to(content.dtype), content), dim=1)
            reference = torch.cat((noised.reference, reference), dim=1)
            self_mask = noised.self_mask
        hidden, references = self.transformer(
            features.tokens, features.pos, features.mask, content, reference, self_mask
        )
        logits, boxes = self.predict(hidden, references)
        outputs: Outputs = {}
        if noised is not None:
            padded = noised.content.shape[1]
            outputs["denoising"] = {
                "queries": noised,
                "pred_logits": logits[:, :, :padded],
                "pred_boxes": boxes[:, :, :padded],
            }
            logits, boxes = logits[:, :, padded:], boxes[:, :, padded:]
        return stages(logits, boxes) | outputs

    def forward(
        self,
        images: Sequence[Tensor] | ImageBatch | Tensor,
        targets: list[Target] | None = None,
        denoising: Denoising | None = None,
    ) -> Outputs:
        """Detect.

        Args:
            images: `[3, h, w]` tensors normalised with ImageNet's mean and deviation, a padded `ImageBatch`, or a
                tensor `[B, 3, H, W]` without padding.
            targets: for denoising in training mode: B dicts with `labels` int64 [n] in 0..C-1 and `boxes` [n, 4]
                (cxcywh in 0..1 of the unpadded image).
            denoising: amount of noise; None: `Denoising()`. Only read in training mode with targets.

        Returns:
            `pred_logits` [B, Q, C], `pred_boxes` [B, Q, 4] (cxcywh in 0..1), `aux_outputs`: a list of the same for
            every decoder layer before the last; in training mode with targets also `denoising`, for the criterion.
        """
        noise = (denoising or Denoising()) if self.training and targets is not None else None
        return self.detect(self.features(images), targets, noise)


def stages(logits: Tensor, boxes: Tensor) -> Outputs:
    """Logits `[L, B, Q, C]` and boxes `[L, B, Q, 4]` of all decoder layers as the detector's answer."""
    layers = [{"pred_logits": c, "pred_boxes": b} for c, b in zip(logits, boxes, strict=True)]
    return {**layers[-1], "aux_outputs": layers[:-1]}
