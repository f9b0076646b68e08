"""VOC's AP by the book: plain loops over images, detections and objects."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass
class VocObject:
    """An object of one class: pixel corners counted from 1, both inside of the box."""

    box: tuple[float, float, float, float]
    difficult: bool = False
    found: bool = False


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


def voc_curve(
    objects: Mapping[int, Sequence[VocObject]],
    detections: Iterable[tuple[int, float, Sequence[float]]],
    least: float = 0.5,
) -> tuple[list[float], list[float]]:
    """Recall and precision after each detection of one class.

    Args:
        objects: by image.
        detections: image, score and corners.
        least: overlap that must be exceeded.
    """
    total = sum(not each.difficult for some in objects.values() for each in some)
    right = wrong = 0
    recall, precision = [], []
    for image, _, box in sorted(detections, key=lambda row: -row[1]):
        nearest, most = None, -1.0
        for each in objects.get(image, ()):
            if (much := overlap(box, each.box)) > most:
                nearest, most = each, much
        if nearest is None or most <= least:
            wrong += 1
        elif not nearest.difficult:
            right, wrong = right + (not nearest.found), wrong + nearest.found
            nearest.found = True
        recall.append(right / total if total else 0.0)
        precision.append(right / max(right + wrong, 1))
    return recall, precision


def eleven_points(recall: Sequence[float], precision: Sequence[float]) -> float:
    """The highest precision from each of 11 recalls on."""
    aims = [0.0, 0.1, 0.2, 3 * 0.1, 0.4, 0.5, 6 * 0.1, 7 * 0.1, 0.8, 0.9, 1.0]
    best = [max((p for r, p in zip(recall, precision, strict=True) if r >= aim), default=0.0) for aim in aims]
    return sum(best) / 11


def area(recall: Sequence[float], precision: Sequence[float]) -> float:
    """The sum over all steps of recall of the highest precision from there on."""
    total, before = 0.0, 0.0
    for place, reached in enumerate(recall):
        total += (reached - before) * max(precision[place:])
        before = reached
    return total
