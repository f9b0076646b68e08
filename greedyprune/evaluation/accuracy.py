"""What a metric says of detections."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Accuracy:
    """The numbers of a metric, in 0..1; -1 where there is nothing to measure on.

    Attributes:
        scores: by their names; `AP` is the one that searches hold.
        per_class: category name -> its AP.
        class_scores: category name -> the metric's other scores of that class, where it has several.
    """

    scores: Mapping[str, float]
    per_class: Mapping[str, float]
    class_scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def mean_known(values: np.ndarray) -> float:
    """The mean of the values that are not -1; -1 where there are none."""
    known = values[values > -1]
    return float(known.mean()) if len(known) else -1.0


def unique_names(categories: Iterable[Mapping[str, Any]]) -> list[str]:
    """The categories' names; where several have the same, each of these is followed by its id."""
    categories = list(categories)
    names = [str(category.get("name", category["id"])) for category in categories]
    while shared := {name for name, times in Counter(names).items() if times > 1}:
        names = [
            f"{name} ({category['id']})" if name in shared else name
            for name, category in zip(names, categories, strict=True)
        ]
    return names
