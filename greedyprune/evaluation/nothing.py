"""Why a detector finds nothing: what its detections and the ground truth have in common, in a line."""

from collections.abc import Iterable, Sequence
from typing import Any

from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.vectorized import CocoEvaluator

NOTHING = 5e-5  # an AP below it is shown as 0.0000
_GOOD = 0.05  # AP from which on boxes are more than a coincidence
_SURE = 0.3  # score from which on a detection counts as an answer here
_SHOWN = 4  # classes that are named


class _OneClass:
    """Ground truth whose objects are all of one class, 1."""

    def __init__(self, coco: Any, image_ids: Sequence[int]) -> None:
        self.imgToAnns = {
            image: [truth | {"category_id": 1} for truth in coco.imgToAnns.get(image, ())] for image in image_ids
        }

    def getCatIds(self) -> list[int]:
        return [1]


def why_nothing(coco: Any, image_ids: Sequence[int], found: Detections) -> str:
    """The numbers that tell why the AP is 0 or -1, and what usually causes that.

    Args:
        coco: a pycocotools COCO with the ground truth.
        image_ids: the images that count.
        found: detections on them.
    """
    truths = [truth for image in image_ids for truth in coco.imgToAnns.get(image, ()) if not truth.get("iscrowd", 0)]
    if not truths:
        return f"the {len(image_ids)} images have no boxes to find; give annotations that have some"
    sure = found[found.scores >= _SURE]
    highest = f"the highest is {found.scores.max():.2f}" if len(found) else "there is none at all"
    numbers = (
        f"{len(truths)} boxes in {len(image_ids)} images, of {_classes(coco, (t['category_id'] for t in truths))}; "
        f"{len(sure)} detections with a score of at least {_SURE} ({highest})"
    )
    if not len(sure):
        return (
            f"{numbers}; the checkpoint may be untrained or of another model, or the images of another kind than those "
            "that it was trained on"
        )
    numbers += f", of {_classes(coco, sure.category_ids.tolist())}"
    ap = _ap_of_boxes(coco, image_ids, found)
    if ap > _GOOD:
        return (
            f"{numbers}; whatever their classes, their boxes have an AP of {ap:.4f}: the category ids of the data mean "
            "other classes to this model"
        )
    return (
        f"{numbers}; they lie elsewhere, whatever their classes (AP {ap:.4f}): the annotations may be of other images, "
        "or in pixels of another image size"
    )


def doubt(coco: Any, image_ids: Sequence[int], found: Detections, ap: float | None) -> str | None:
    """Why an AP may be that of a detector of other classes; None: nothing says so.

    Args:
        coco: a pycocotools COCO with the ground truth.
        image_ids: the images that count.
        found: detections on them.
        ap: theirs by COCO's metric; None: it is measured.
    """
    if ap is None:
        ap = CocoEvaluator(coco, image_ids).ap(found)
    if ap > 0.1:
        return None
    boxes = _ap_of_boxes(coco, image_ids, found)
    if boxes <= max(_GOOD, 10 * ap):
        return None
    return (
        f"the AP is {ap:.4f}, and that of the boxes alone, whatever their classes, {boxes:.4f}: the category ids of "
        "the data seem to mean other classes to this model"
    )


def _ap_of_boxes(coco: Any, image_ids: Sequence[int], found: Detections) -> float:
    alike = Detections(found.image_ids, found.category_ids * 0 + 1, found.boxes, found.scores)
    return CocoEvaluator(_OneClass(coco, image_ids), image_ids).ap(alike)


def _classes(coco: Any, categories: Iterable[int]) -> str:
    """`person (1), car (3) and 2 more classes`, the first by id."""
    ids = sorted(set(categories))
    named = [f"{coco.cats[each]['name']} ({each})" if each in coco.cats else f"class {each}" for each in ids[:_SHOWN]]
    more = len(ids) - len(named)
    return ", ".join(named) + (f" and {more} more classes" if more else "")
