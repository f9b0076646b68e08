"""KITTI's AP by the book: for every image, object, detection and score threshold a loop."""

from collections.abc import Sequence
from dataclasses import dataclass

LEVELS = {"easy": (40, 0, 0.15), "moderate": (25, 1, 0.30), "hard": (25, 2, 0.50)}
LEAST = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
BESIDE = {("Car", "Van"), ("Pedestrian", "Person_sitting")}
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Label:
    """A line of a label file: corners in pixels."""

    type: str
    box: Box
    truncated: float = 0.0
    occluded: int = 0


@dataclass(frozen=True)
class Answer:
    """A line of a result file."""

    type: str
    box: Box
    score: float


def shared(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def area(a: Box) -> float:
    return (a[2] - a[0]) * (a[3] - a[1])


def iou(a: Box, b: Box) -> float:
    return shared(a, b) / (area(a) + area(b) - shared(a, b))


class Frame:
    """One image in the evaluation of one class at one level."""

    def __init__(self, labels: Sequence[Label], answers: Sequence[Answer], kind: str, level: str) -> None:
        least_height, most_occluded, most_truncated = LEVELS[level]
        self.least = LEAST[kind]
        self.objects, self.counts = [], []
        for label in labels:
            ok = (
                label.box[3] - label.box[1] >= least_height
                and label.occluded <= most_occluded
                and label.truncated <= most_truncated
            )
            if label.type == kind or (kind, label.type) in BESIDE:
                self.objects.append(label)
                self.counts.append(label.type == kind and ok)
        self.regions = [label.box for label in labels if label.type == "DontCare"]
        self.answers, self.low = [], []
        for answer in answers:
            low = int(answer.box[3] - answer.box[1]) < least_height
            if low or answer.type == kind:
                self.answers.append(answer)
                self.low.append(low)

    def first_pass(self) -> list[float]:
        """Scores of the right detections, where every object takes the highest score."""
        taken: set[int] = set()
        scores = []
        for label, counts in zip(self.objects, self.counts, strict=True):
            best = None
            for place, answer in enumerate(self.answers):
                if place in taken or iou(answer.box, label.box) <= self.least:
                    continue
                if best is None or answer.score > self.answers[best].score:
                    best = place
            if best is not None:
                taken.add(best)
                if counts and not self.low[best]:
                    scores.append(self.answers[best].score)
        return scores

    def second_pass(self, threshold: float) -> tuple[int, int]:
        """Right and wrong detections of at least a score, where every object takes the greatest overlap."""
        taken: set[int] = set()
        right = wrong = 0
        for label, counts in zip(self.objects, self.counts, strict=True):
            best, most = None, 0.0
            for place, answer in enumerate(self.answers):
                much = iou(answer.box, label.box)
                if place in taken or answer.score < threshold or much <= self.least:
                    continue
                if self.low[place]:
                    best = place if best is None else best
                elif best is None or self.low[best] or much > most:
                    best, most = place, much
            if best is not None:
                taken.add(best)
                right += counts and not self.low[best]
        for place, answer in enumerate(self.answers):
            counted = answer.score >= threshold and place not in taken and not self.low[place]
            excused = any(shared(answer.box, region) / area(answer.box) > self.least for region in self.regions)
            wrong += counted and not excused
        return right, wrong


def kitti_ap(frames: Sequence[tuple[Sequence[Label], Sequence[Answer]]], kind: str, level: str) -> tuple[float, float]:
    """AP by 11 and by 40 points; -1 where there is nothing to find."""
    images = [Frame(labels, answers, kind, level) for labels, answers in frames]
    total = sum(sum(image.counts) for image in images)
    if not total:
        return -1.0, -1.0
    scores = sorted((score for image in images for score in image.first_pass()), reverse=True)
    thresholds, aim = [], 0.0
    for number, score in enumerate(scores):
        here = (number + 1) / total
        beyond = (number + 2) / total if number + 1 < len(scores) else here
        if number + 1 == len(scores) or beyond - aim >= aim - here:
            thresholds.append(score)
            aim += 1 / 40
    precision = []
    for threshold in thresholds:
        counted = [image.second_pass(threshold) for image in images]
        right, wrong = sum(r for r, _ in counted), sum(w for _, w in counted)
        precision.append(right / max(right + wrong, 1))
    precision += [0.0] * (41 - len(precision))
    best = [max(precision[place:]) for place in range(41)]
    return sum(best[::4]) / 11, sum(best[1:]) / 40
