"""What every detector is: images to features, features to boxes, with the widths of its sites."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.classes import Classes
from greedyprune.models.answer import DenoisingAnswer, DetrAnswer
from greedyprune.models.backbone import Backbone
from greedyprune.models.batch import ImageBatch, as_batch
from greedyprune.models.denoising import Denoising, denoising_queries
from greedyprune.models.features import Features, Queries
from greedyprune.models.layers import present
from greedyprune.models.layout import QUERIES
from greedyprune.models.matcher import Target
from greedyprune.models.options import DetectorOptions, ModelInfo
from greedyprune.models.transformer import Decoded, Transformer
from greedyprune.models.widths import read_widths


class Detector(nn.Module):
    """A detector with widths of its own; the base class of all of them.

    A kind of detector builds its parts, and says how it makes features, queries and predictions.

    Args:
        options: everything else that gives it its shape.
        widths: site name -> width, see `dense_widths` of the options; a site that is not named, or None: dense.
        info: what its labels mean.

    Attributes:
        transformer: encoder and decoder.
        backbone: a Sequential of one Backbone; published checkpoints call it backbone.0.
        label_enc: embeddings of noised labels; None: the detector is trained without denoising.
        num_proposals: queries, where they are the proposals of a first stage.

    Raises:
        UserError: widths or class names that do not fit the options.
    """

    options: Any  # each detector's own; all derive from DetectorOptions
    transformer: Transformer
    backbone: nn.Sequential
    label_enc: nn.Embedding | None

    def __init__(
        self, options: DetectorOptions, widths: Mapping[str, int] | None = None, info: ModelInfo | None = None
    ) -> None:
        super().__init__()
        self.options = options
        self.info = info or ModelInfo()
        self.info.check_classes(options.num_classes)
        self.label_enc = None
        self.num_proposals = options.layout.check(widths or {})[QUERIES]

    @property
    def widths(self) -> dict[str, int]:
        """The width of every site, as the tensors have it."""
        state = self.state_dict(keep_vars=True)
        blocks = self.feature_extractor.inner_widths
        layers = {
            "encoder": [index for index, _ in present(self.transformer.encoder.layers)],
            "decoder": list(self.transformer.decoder.answering),
        }
        return read_widths(self.options, blocks, self.num_proposals, layers, lambda name: len(state[name]))

    def features(self, images: ImageBatch) -> Features:
        """The part before the Transformer: backbone, projection and position embedding.

        Pixels are read in the call of `backbone` alone; elsewhere the batch's size and padding.
        """
        raise NotImplementedError

    def padding(self, images: ImageBatch, size: torch.Size) -> Tensor | None:
        """Padding `[B, h, w]` (True: there) of a level of tokens, `size` high and wide; None: there is none."""
        return self.feature_extractor.padding(images, size)

    def queries(self, features: Features, memory: Tensor) -> Queries:
        """The matching queries, of which a second stage makes its own from the memory `[B, M, dim]`."""
        raise NotImplementedError

    def classify(self, index: int, states: Tensor) -> Tensor:
        """Logits `[B, N, C]` of the states `[B, N, dim]` of decoder layer `index`."""
        raise NotImplementedError

    @property
    def query_tables(self) -> tuple[nn.Embedding, ...]:
        """The embeddings that have a row for every query; none, where queries are proposals of a first stage."""
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
    def has_idle_weights(self) -> bool:
        """Whether some weights have no say, and no gradient.

        They make positions: of queries, which the first decoder layer alone does not scale; or of tokens, which an
        encoder without layers does not look at.
        """
        return self.transformer.decoder.answering == (0,) or not present(self.transformer.encoder.layers)

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

    def forward(
        self,
        images: Sequence[Tensor] | ImageBatch | Tensor,
        targets: list[Target] | None = None,
        denoising: Denoising | None = None,
        *,
        last_only: bool = False,
    ) -> DetrAnswer:
        """Detect.

        Args:
            images: `[3, h, w]` tensors normalised with ImageNet's mean and deviation, a padded `ImageBatch`, or a
                tensor `[B, 3, H, W]` without padding.
            targets: for denoising in training mode: B dicts with `labels` int64 [n] in 0..C-1 and `boxes` [n, 4]
                (cxcywh in 0..1 of the unpadded image). Not read by a detector that is trained without denoising.
            denoising: amount of noise; None: `Denoising()`. Only read in training mode with targets.
            last_only: the answers of earlier decoder layers are not computed; `earlier` is empty then.

        Returns:
            The answer: of the last decoder layer, with those of the layers before it in `earlier`.
        """
        features = self.features(as_batch(images))
        noise = (denoising or Denoising()) if self.training and targets is not None else None

        def ask(memory: Tensor) -> Queries:
            queries = self.queries(features, memory)
            return queries if noise is None or targets is None else self._with_noise(queries, targets, noise)

        return self.detect(features, ask, last_only)

    def detect(
        self, features: Features, ask: Callable[[Tensor], Queries] | None = None, last_only: bool = False
    ) -> DetrAnswer:
        """The part from the Transformer on.

        Args:
            features: the images.
            ask: makes the queries, from the memory `[B, M, dim]`; None: `queries`.
            last_only: see `forward`.
        """
        queries, decoded = self.transformer(features, ask or partial(self.queries, features), last_only)
        return self._answer(queries, decoded)

    def _with_noise(self, queries: Queries, targets: list[Target], noise: Denoising) -> Queries:
        """All queries: denoising ones, where there are any, before the matching ones."""
        if self.label_enc is None:
            return queries
        count = queries.content.shape[1]
        noised = denoising_queries(targets, noise, self.label_enc, self.options.num_classes, count)
        if noised is None:
            return queries
        return queries._replace(
            content=torch.cat((noised.content.to(queries.content.dtype), queries.content), dim=1),
            reference=torch.cat((noised.reference, queries.reference), dim=1),
            self_shown=noised.self_shown,
            noised=noised,
        )

    def _answer(self, queries: Queries, decoded: list[Decoded]) -> DetrAnswer:
        logits = [self.classify(each.layer, each.states) for each in decoded]
        boxes = [self.transformer.decoder.refine(*each) for each in decoded]
        denoising = None
        if queries.noised is not None:
            count = queries.noised.content.shape[1]
            first = (torch.stack([each[:, :count] for each in found]) for found in (logits, boxes))
            denoising = DenoisingAnswer(queries.noised, *first)
            logits, boxes = [each[:, count:] for each in logits], [each[:, count:] for each in boxes]
        ranked = queries.proposals is not None
        *earlier, last = (Answer(*layer, ranked=ranked) for layer in zip(logits, boxes, strict=True))
        return DetrAnswer(
            last.logits,
            last.boxes,
            earlier=tuple(earlier),
            ranked=ranked,
            proposals=queries.proposals,
            denoising=denoising,
        )
