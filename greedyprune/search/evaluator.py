"""AP of proposals."""

from collections.abc import Iterator

import torch

from greedyprune.answer import Answer
from greedyprune.classes import map_labels
from greedyprune.data.coco import CocoDetection
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.metrics import COCO, metric_of
from greedyprune.pruning.bench import NOTHING, Activations
from greedyprune.sites import Change

TOP_K = 100  # detections of an image


class Evaluator:
    """AP of changes, on the validation subset and on all validation images.

    Args:
        subset: the validation subset,
        rest: and all other validation images.
        val: the validation set.
        metric: what AP is; see `METRICS`.

    Attributes:
        ids: all validation images.
        metric: what AP is.
    """

    def __init__(self, subset: Activations, rest: Activations, val: CocoDetection, metric: str = COCO) -> None:
        self.subset, self.rest, self.val, self.coco = subset, rest, val, val.coco
        self.bench = subset.bench
        self.categories = map_labels(self.bench.family.classes(self.bench.model), val.coco, val.root).categories
        self.ids = [*subset.batches.ids, *rest.batches.ids]
        self.metric, judge = metric, metric_of(metric)
        self.subset_ap = judge.evaluator(val.coco, subset.batches.ids)
        self.full_ap = judge.evaluator(val.coco, self.ids)

    def subset_map(self, change: Change = NOTHING) -> tuple[float, Detections]:
        """AP on the subset, and its detections for `full_map` to go on from."""
        found = self._detect(self.subset, change)
        return self.subset_ap.ap(found), found

    def full_map(self, subset: Detections, change: Change = NOTHING) -> float:
        """AP on all validation images, of which the subset has run already."""
        return self.full_ap.ap(self.all_found(subset, change))

    def all_found(self, subset: Detections, change: Change = NOTHING) -> Detections:
        """The detections on all validation images, those on the subset among them."""
        return Detections.concat([subset, self._detect(self.rest, change)])

    def _detect(self, images: Activations, change: Change) -> Detections:
        family, model = self.bench.family, self.bench.model
        parts = []
        for answer, targets in images.answers(change):
            sizes = torch.stack([target["size"] for target in targets])
            results = family.detections(model, answer, sizes, TOP_K)
            parts.append(Detections.from_results(results, [int(t["image_id"]) for t in targets], self.categories))
        return Detections.concat(parts)


def last_answers(images: Activations, change: Change = NOTHING) -> Iterator[Answer]:
    """What the last layer says of images, batch after batch."""
    for answer, _ in images.answers(change):
        yield answer.last()
