"""Answers of DETRs: an `Answer`, and what only a DETR adds to it."""

from dataclasses import dataclass

from torch import Tensor

from greedyprune.answer import Answer
from greedyprune.models.features import DenoisingQueries


@dataclass(frozen=True)
class DenoisingAnswer:
    """Answers to denoising queries.

    Attributes:
        queries: the P denoising queries.
        logits: `[L, B, P, C]` of all decoder layers, front to back.
        boxes: `[L, B, P, 4]` cxcywh in 0..1.
    """

    queries: DenoisingQueries
    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class DetrAnswer(Answer):
    """Answer of a DETR.

    Attributes:
        proposals: answer of a two-stage detector's first stage, one for every token; None: there is one stage.
        denoising: answers to denoising queries, in training mode with targets; None: there were none.
    """

    proposals: Answer | None = None
    denoising: DenoisingAnswer | None = None
