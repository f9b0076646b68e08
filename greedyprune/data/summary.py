"""What a data set in COCO's layout holds, in numbers."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greedyprune.data.folders import annotation_file
from greedyprune.text import printable

SMALL, LARGE = 32**2, 96**2  # areas where COCO's small objects end and its large ones begin


@dataclass(frozen=True)
class SplitSummary:
    """What a split holds.

    Attributes:
        images: all of them.
        empty: images without any annotation.
        crowds: annotations of crowds.
        objects: single objects.
        classes: single objects by class name.
        sizes: share of small, medium and large ones among the single objects.
    """

    images: int
    empty: int
    crowds: int
    objects: int
    classes: dict[str, int]
    sizes: dict[str, float]

    def lines(self, split: str) -> Iterator[str]:
        """In words."""
        sizes = ", ".join(f"{share:.0%} {name}" for name, share in self.sizes.items())
        classes = ", ".join(f"{printable(name)} {count}" for name, count in self.classes.items())
        yield f"{split}: {self.images} images ({self.empty} empty), {self.objects} objects, {self.crowds} crowds"
        yield f"  sizes: {sizes}"
        yield f"  classes: {classes}"


def summarize(folder: Path, split: str) -> SplitSummary:
    """Count what a written set holds."""
    data = json.loads(annotation_file(folder, split).read_bytes())
    single = [annotation for annotation in data["annotations"] if not annotation["iscrowd"]]
    counts = Counter(annotation["category_id"] for annotation in single)
    areas = np.array([annotation["area"] for annotation in single])
    small, large = (areas < SMALL).sum(), (areas >= LARGE).sum()
    sizes = {"small": small, "medium": len(areas) - small - large, "large": large}
    return SplitSummary(
        images=len(data["images"]),
        empty=len(data["images"]) - len({annotation["image_id"] for annotation in data["annotations"]}),
        crowds=len(data["annotations"]) - len(single),
        objects=len(single),
        classes={category["name"]: counts[category["id"]] for category in data["categories"]},
        sizes={name: float(count / max(len(areas), 1)) for name, count in sizes.items()},
    )
