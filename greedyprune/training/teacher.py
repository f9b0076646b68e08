"""A teacher: the dense detector, whose answers a slim one learns beside the labels."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from greedyprune.classes import Classes, folded
from greedyprune.errors import UserError
from greedyprune.models import Detector, ImageBatch
from greedyprune.models.detector import Outputs, stages
from greedyprune.models.features import Queries
from greedyprune.text import printable

_REMEDY = "Give the dense detector that it was cut from; after --new_classes, one with the same new classes"
# What makes a query of the one detector the same query of the other.
_SHARED = ("num_classes", "num_queries", "num_patterns", "dec_layers", "two_stage")


class Teacher:
    """Answers the queries that the student is asked.

    Args:
        model: the detector that teaches; from now on it is in eval mode, and takes no gradients.
        student: one with the same classes in the same order, queries and decoder layers.

    Raises:
        UserError: it has others.
    """

    def __init__(self, model: Detector, student: Detector) -> None:
        ours, theirs = _shape(student), _shape(model)
        if ours != theirs:
            named = [f"{name} {theirs[name]}, not {own}" for name, own in ours.items() if theirs[name] != own]
            raise UserError(f"the teacher cannot teach this model: {'; '.join(named)}. {_REMEDY}")
        self.model = model.eval().requires_grad_(False)
        self._asked: list[Queries] = []
        _check_classes(model.classes, student.classes)
        if theirs["two_stage"]:
            # What a second stage looks at is the student's choice: the teacher's own may be other places.
            student.transformer.register_forward_hook(self._remember)

    def _remember(self, module: Any, given: Any, result: tuple[Queries, Any, Any]) -> None:
        queries = result[0]
        first = 0 if queries.noised is None else queries.noised.content.shape[1]
        pos = None if queries.pos is None else queries.pos[:, first:].detach()
        self._asked = [Queries(queries.content[:, first:].detach(), queries.reference[:, first:].detach(), pos)]

    @torch.no_grad()
    def answers(self, images: ImageBatch) -> Outputs:
        """Its answers to a batch that the student has just answered, without `enc_outputs`."""
        features = self.model.features(images)
        _, hidden, references = self.model.transformer(features, partial(self._ask, features))
        return stages(*self.model.predict(hidden, references))

    def _ask(self, features: Any, memory: Tensor) -> Queries:
        return self._asked.pop() if self._asked else self.model.queries(features, memory)


def _shape(model: Detector) -> dict[str, Any]:
    return {"kind": type(model).__name__, **{name: getattr(model.options, name, None) for name in _SHARED}}


def _check_classes(theirs: Classes, ours: Classes) -> None:
    """Refuse a teacher whose labels are known to mean other things."""
    if ours.names and theirs.names:
        named = [pair for pair in zip(ours.names, theirs.names, strict=True) if folded(pair[0]) != folded(pair[1])]
    elif ours.ids and theirs.ids:
        named = [(str(own), str(other)) for own, other in zip(ours.ids, theirs.ids, strict=True) if own != other]
    else:
        named = []
    if named:
        own, other = (printable(name) for name in named[0])
        raise UserError(
            f"the teacher cannot teach this model: {len(named)} of its {ours.count} classes are others, the first is "
            f"{other}, not {own}. {_REMEDY}"
        )
