"""What every detector is: images to features, features to boxes, with the widths of its sites."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.cfgs import Cfgs, check_cfgs
from greedyprune.classes import Classes
from greedyprune.models.backbone import Backbone
from greedyprune.models.batch import ImageBatch
from greedyprune.models.denoising import Denoising, denoising_queries
from greedyprune.models.features import Features, Queries
from greedyprune.models.matcher import Target
from greedyprune.models.options import DetectorOptions, ModelInfo
from greedyprune.models.transformer import Transformer

Outputs = dict[str, Any]


class Detector(nn.Module):
    """A detector with the widths of `cfgs`; the base class of all of them.

    A kind of detector builds its parts, and says how it makes features, queries and predictions.

    Args:
        options: everything else that gives it its shape.
        cfgs: a width for every site; None: dense.
        info: what its labels mean.

    Attributes:
        transformer: encoder and decoder.
        backbone: a Sequential of one Backbone; published checkpoints call it backbone.0.
        label_enc: embeddings of noised labels; None: the detector is trained without denoising.

    Raises:
        UserError: widths or class names that do not fit the options.
    """

    options: Any  # each detector's own; all derive from DetectorOptions
    transformer: Transformer
    backbone: nn.Sequential
    label_enc: nn.Embedding | None

    def __init__(self, options: DetectorOptions, cfgs: Cfgs | None = None, info: ModelInfo | None = None) -> None:
        super().__init__()
        self.options = options
        dense = options.dense_cfgs()
        self.cfgs = check_cfgs(cfgs or dense, dense, options.heads, options.unit)
        self.info = info or ModelInfo()
        self.info.check_classes(options.num_classes)
        self.label_enc = None

    def features(self, images: Sequence[Tensor] | ImageBatch | Tensor) -> Features:
        """The part before the Transformer: backbone, projection and position embedding."""
        raise NotImplementedError

    def queries(self, features: Features, memory: Tensor) -> Queries:
        """The matching queries, of which a second stage makes its own from the memory `[B, M, dim]`."""
        raise NotImplementedError

    def predict(self, hidden: list[Tensor], references: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits `[L, B, N, C]` and boxes `[L, B, N, 4]` of the last L decoder layers, of what they gave and got."""
        raise NotImplementedError

    @property
    def class_heads(self) -> list[nn.Linear]:
        """The heads whose rows are classes, each once."""
        raise NotImplementedError

    @property
    def proposal_head(self) -> nn.Linear | None:
        """The head of a second stage's proposals, whose row 0 says whether there is an object; None: there is none."""
        return None

    @property
    def classes(self) -> Classes:
        """What its labels are, as far as it knows."""
        return Classes(self.options.num_classes, self.info.category_ids, self.info.class_names)

    @property
    def feature_extractor(self) -> Backbone:
        """The network that `backbone` holds."""
        network = self.backbone[0]
        assert isinstance(network, Backbone)
        return network

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between the cells of every level of tokens, level after level."""
        return (self.feature_extractor.stride,)

    def train(self, mode: bool = True) -> "Detector":
        super().train(mode)
        if self.options.freeze_norm:
            for module in self.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def detect(
        self, features: Features, targets: list[Target] | None = None, denoising: Denoising | None = None
    ) -> Outputs:
        """The part from the Transformer on; see `forward`."""
        queries, hidden, references = self.transformer(features, partial(self._ask, features, targets, denoising))
        return self._answer(queries, *self.predict(hidden, references))

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
                (cxcywh in 0..1 of the unpadded image). Not read by a detector that is trained without denoising.
            denoising: amount of noise; None: `Denoising()`. Only read in training mode with targets.

        Returns:
            `pred_logits` [B, Q, C], `pred_boxes` [B, Q, 4] (cxcywh in 0..1), `aux_outputs`: a list of the same for
            every decoder layer before the last; of a two-stage detector also `enc_outputs`, the same for every token;
            in training mode with targets also `denoising`, for the criterion.
        """
        noise = (denoising or Denoising()) if self.training and targets is not None else None
        return self.detect(self.features(images), targets, noise)

    def _ask(
        self, features: Features, targets: list[Target] | None, denoising: Denoising | None, memory: Tensor
    ) -> Queries:
        """All queries: denoising ones, where there are any, before the matching ones."""
        queries = self.queries(features, memory)
        if targets is None or denoising is None or self.label_enc is None:
            return queries
        count = queries.content.shape[1]
        noised = denoising_queries(targets, denoising, self.label_enc, self.options.num_classes, count)
        if noised is None:
            return queries
        return queries._replace(
            content=torch.cat((noised.content.to(queries.content.dtype), queries.content), dim=1),
            reference=torch.cat((noised.reference, queries.reference), dim=1),
            self_mask=noised.self_mask,
            noised=noised,
        )

    def _answer(self, queries: Queries, logits: Tensor, boxes: Tensor) -> Outputs:
        outputs: Outputs = {}
        if queries.noised is not None:
            padded = queries.noised.content.shape[1]
            outputs["denoising"] = {
                "queries": queries.noised,
                "pred_logits": logits[:, :, :padded],
                "pred_boxes": boxes[:, :, :padded],
            }
            logits, boxes = logits[:, :, padded:], boxes[:, :, padded:]
        return stages(logits, boxes, queries.proposals) | outputs


def stages(logits: Tensor, boxes: Tensor, proposals: dict[str, Any] | None = None) -> Outputs:
    """Logits `[L, B, Q, C]` and boxes `[L, B, Q, 4]` of all decoder layers as the detector's answer."""
    layers = [{"pred_logits": c, "pred_boxes": b} for c, b in zip(logits, boxes, strict=True)]
    answer: Outputs = {**layers[-1], "aux_outputs": layers[:-1]}
    return answer if proposals is None else {**answer, "enc_outputs": proposals}
