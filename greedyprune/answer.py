"""Answers of detectors, and the links between their logits and the chances of classes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

NOTHING = 0.01  # chance of an object where there is none


class Link(ABC):
    """Chances from the logits of a query, and the curvature of the classification loss in the logits.

    The curvature H is that of the cross entropy at the logits' own chances (Gauss-Newton, the Fisher information):
    what an error of the logits costs to second order.
    """

    @abstractmethod
    def chances(self, logits: Tensor) -> Tensor:
        """Chance of every class `[..., classes]` from logits `[..., C]`."""

    @abstractmethod
    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross entropy `[...]` of logits with the chances of `target`, both `[..., C]`, summed over the classes."""

    @abstractmethod
    def half_curvature(self, logits: Tensor, error: Tensor) -> Tensor:
        """e^T H e / 2, `[...]`: what an error `[..., C]` of the logits `[..., C]` costs."""

    @abstractmethod
    def root(self, logits: Tensor, signs: Tensor) -> Tensor:
        """A s `[..., C]` of signs s `[..., C]`, with A A^T = H at the logits `[..., C]`."""

    @abstractmethod
    def absence(self, logits: Tensor) -> Tensor:
        """Divergence `[...]` of the chances of logits `[..., C]` from those of a query that finds nothing.

        A query that finds no more than `NOTHING` is one.
        """

    def confidence(self, logits: Tensor) -> Tensor:
        """Chance `[...]` of the best class."""
        return self.chances(logits).amax(-1)


class Sigmoid(Link):
    """A chance of its own for every class, as with focal loss."""

    def chances(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, target.sigmoid(), reduction="none").sum(-1)

    def half_curvature(self, logits: Tensor, error: Tensor) -> Tensor:
        chance = logits.sigmoid()
        return (chance * (1 - chance) / 2 * error.square()).sum(-1)

    def root(self, logits: Tensor, signs: Tensor) -> Tensor:
        chance = logits.sigmoid()
        return (chance * (1 - chance)).sqrt() * signs

    def absence(self, logits: Tensor) -> Tensor:
        return _binary_divergence(logits.sigmoid()).sum(-1)


class Softmax(Link):
    """One chance shared by all classes and "no object", the last logit, as in DETR."""

    def chances(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)[..., :-1]

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        return -(target.softmax(-1) * logits.log_softmax(-1)).sum(-1)

    def half_curvature(self, logits: Tensor, error: Tensor) -> Tensor:
        chance = logits.softmax(-1)
        return ((chance * error.square()).sum(-1) - (chance * error).sum(-1).square()) / 2

    def root(self, logits: Tensor, signs: Tensor) -> Tensor:
        # H = diag(p) - p p^T = A A^T with A = diag(sqrt p) - p sqrt(p)^T, since p sums to 1.
        chance = logits.softmax(-1)
        spread = chance.sqrt() * signs
        return spread - chance * spread.sum(-1, keepdim=True)

    def absence(self, logits: Tensor) -> Tensor:
        # That something is found, and which class it is, against all of them alike.
        chance = logits.softmax(-1)[..., :-1]
        found, classes = chance.sum(-1), chance.shape[-1]
        which = torch.xlogy(chance, chance).sum(-1) - torch.xlogy(found, found) + found * log(classes)
        return _binary_divergence(found) + which


class ObjectnessSoftmax(Link):
    """Objectness, the first logit, times one chance shared by all classes, as in YOLOv2."""

    def chances(self, logits: Tensor) -> Tensor:
        return logits[..., :1].sigmoid() * logits[..., 1:].softmax(-1)

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        found = target[..., 0].sigmoid()
        objectness = F.binary_cross_entropy_with_logits(logits[..., 0], found, reduction="none")
        return objectness - found * (target[..., 1:].softmax(-1) * logits[..., 1:].log_softmax(-1)).sum(-1)

    def half_curvature(self, logits: Tensor, error: Tensor) -> Tensor:
        found, chance, off = logits[..., 0].sigmoid(), logits[..., 1:].softmax(-1), error[..., 1:]
        classes = (chance * off.square()).sum(-1) - (chance * off).sum(-1).square()
        return found / 2 * ((1 - found) * error[..., 0].square() + classes)

    def root(self, logits: Tensor, signs: Tensor) -> Tensor:
        found, chance = logits[..., :1].sigmoid(), logits[..., 1:].softmax(-1)
        spread = chance.sqrt() * signs[..., 1:]
        classes = found.sqrt() * (spread - chance * spread.sum(-1, keepdim=True))
        return torch.cat(((found * (1 - found)).sqrt() * signs[..., :1], classes), dim=-1)

    def absence(self, logits: Tensor) -> Tensor:
        return _binary_divergence(logits[..., 0].sigmoid())


def _binary_divergence(chance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of chances from `NOTHING`, each; 0 for those below it."""
    chance = chance.clamp(min=NOTHING)
    own = torch.xlogy(chance, chance) + torch.xlogy(1 - chance, 1 - chance)
    return own - chance * log(NOTHING) - (1 - chance) * log(1 - NOTHING)


SIGMOID = Sigmoid()


@dataclass(frozen=True)
class Answer:
    """What a detector says of a batch of images.

    Attributes:
        logits: `[B, Q, C]` of Q queries, anchors or cells; `link` says what they mean.
        boxes: `[B, Q, 4]` cxcywh in 0..1 of the unpadded image.
        link: from logits to chances.
        earlier: answers of earlier layers to the same queries, front to back; a detector may have none.
        ranked: its queries are chosen anew for every image, as by a first stage that proposes: what one detector
            answers first another one may answer last.
    """

    logits: Tensor
    boxes: Tensor
    link: Link = SIGMOID
    earlier: tuple["Answer", ...] = ()
    ranked: bool = False

    @property
    def images(self) -> int:
        return len(self.logits)

    def layers(self) -> Iterator["Answer"]:
        """The answer of every layer, the last one first."""
        yield self
        yield from self.earlier

    def last(self) -> "Answer":
        """The last layer's answer alone, without a graph."""
        return Answer(self.logits.detach(), self.boxes.detach(), self.link, ranked=self.ranked)

    def of_queries(self, queries: Tensor) -> "Answer":
        """The answer of some queries `[q]` alone, in every layer."""
        index = queries.to(self.logits.device)
        earlier = tuple(answer.of_queries(queries) for answer in self.earlier)
        return replace(self, logits=self.logits[:, index], boxes=self.boxes[:, index], earlier=earlier)
