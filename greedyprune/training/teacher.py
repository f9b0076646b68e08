"""A teacher: the dense detector, whose answers a slim one learns beside the labels."""

from functools import partial
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from greedyprune.answer import Answer
from greedyprune.classes import Classes, folded
from greedyprune.errors import UserError
from greedyprune.models import Detector, ImageBatch
from greedyprune.models.features import Features, Queries
from greedyprune.text import printable

_REMEDY = "Give the dense detector that it was cut from; after --new_classes, one with the same new classes"
# What makes a layer or query of the one detector comparable with one of the other.
_SHARED = ("num_classes", "num_patterns", "dec_layers", "two_stage")


class Teacher:
    """A detector that answers the queries of another one.

    The student may lack queries and decoder layers. Its queries are then those of the teacher that lie nearest to
    them, and its layers those of the same numbers; the last layer of the one learns from the last of the other.

    Args:
        model: the detector that teaches; from now on it is in eval mode, and takes no gradients.
        student: one with the same classes in the same order, and no queries or decoder layers that the teacher lacks.

    Raises:
        UserError: it has others.
    """

    def __init__(self, model: Detector, student: Detector) -> None:
        ours, theirs = _shape(student), _shape(model)
        named = [f"{name} {theirs[name]}, not {own}" for name, own in ours.items() if theirs[name] != own]
        wanted, there = _query_count(student), _query_count(model)
        if there < wanted and not theirs["two_stage"]:
            named.append(f"num_queries {there}, not {wanted}")
        earlier, answering = student.transformer.decoder.answering[:-1], model.transformer.decoder.answering
        if not set(earlier) <= set(answering[:-1]) and ours == theirs:
            named.append(f"decoder layers {list(answering)}, not {[*earlier, answering[-1]]}")
        if named:
            raise UserError(f"the teacher cannot teach this model: {'; '.join(named)}. {_REMEDY}")
        check_classes(model.classes, student.classes)
        self.model = model.eval().requires_grad_(False)
        self._queries = _nearest(student, model) if wanted < there else None
        self._earlier = [answering.index(layer) for layer in earlier]
        self._asked: list[Queries] = []
        if theirs["two_stage"]:
            # A second stage looks at places of the student's choice: the teacher's own may be others.
            student.transformer.register_forward_hook(self._remember)

    def _remember(self, module: Any, given: Any, result: tuple[Queries, Any]) -> None:
        queries = result[0]
        first = 0 if queries.noised is None else queries.noised.content.shape[1]
        pos = None if queries.pos is None else queries.pos[:, first:].detach()
        self._asked = [Queries(queries.content[:, first:].detach(), queries.reference[:, first:].detach(), pos)]

    @torch.no_grad()
    def answer(self, images: ImageBatch) -> Answer:
        """Its answer to a batch that the student has just answered: a layer and query for each of the student's."""
        features = self.model.features(images)
        whole = self.model.detect(features, partial(self._ask, features))
        answer = Answer(whole.logits, whole.boxes, whole.link, tuple(whole.earlier[index] for index in self._earlier))
        return answer if self._queries is None else answer.of_queries(self._queries)

    def _ask(self, features: Features, memory: Tensor) -> Queries:
        return self._asked.pop() if self._asked else self.model.queries(features, memory)


def _shape(model: Detector) -> dict[str, Any]:
    return {"kind": type(model).__name__, **{name: getattr(model.options, name, None) for name in _SHARED}}


def _query_count(model: Detector) -> int:
    """Learned queries; 0 of a second stage."""
    return min((len(table.weight) for table in model.query_tables), default=0)


@torch.no_grad()
def _nearest(student: Detector, teacher: Detector) -> Tensor:
    """Numbers `[q]` of the teacher's queries that are the student's: one for each, of the least sum of distances."""
    ours, theirs = (
        torch.cat([table.weight.detach().float().cpu() for table in model.query_tables], dim=1)
        for model in (student, teacher)
    )
    _, chosen = linear_sum_assignment(torch.cdist(ours, theirs).numpy())
    repeats = getattr(teacher.options, "num_patterns", 0) or 1
    patterns = torch.arange(repeats)[:, None] * len(theirs)
    return (patterns + torch.from_numpy(chosen)).flatten()


def check_classes(theirs: Classes, ours: Classes) -> None:
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
