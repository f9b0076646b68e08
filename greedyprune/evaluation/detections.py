"""Detections of many images as arrays: what a detector answers, and what COCO results files hold."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Detections:
    """N detections, in the order in which equal scores are ranked.

    Attributes:
        image_ids: int64 [N].
        category_ids: int64 [N], the data set's own ids.
        boxes: float64 [N, 4], x, y, width and height in pixels of the original image.
        scores: float64 [N].
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> "Detections":
        """The detections that a mask, a slice or an array of positions chooses."""
        return Detections(self.image_ids[index], self.category_ids[index], self.boxes[index], self.scores[index])

    def rows(self) -> list[dict[str, Any]]:
        """The form of a COCO results file: `image_id`, `category_id`, `bbox` [x, y, w, h] and `score`."""
        columns = (self.image_ids, self.category_ids, self.boxes, self.scores)
        return [
            {"image_id": image, "category_id": category, "bbox": box, "score": score}
            for image, category, box, score in zip(*(column.tolist() for column in columns), strict=True)
        ]

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "Detections":
        """COCO result rows, or annotations (whose score is 1)."""
        rows = list(rows)
        return cls(
            np.array([row["image_id"] for row in rows], dtype=np.int64),
            np.array([row["category_id"] for row in rows], dtype=np.int64),
            np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4),
            np.array([row.get("score", 1.0) for row in rows], dtype=np.float64),
        )

    @classmethod
    def from_results(
        cls, results: Sequence[Mapping[str, Tensor]], image_ids: Sequence[int], category_ids: Sequence[int | None] = ()
    ) -> "Detections":
        """What `postprocess` made of a batch.

        Args:
            results: per image `scores` [k], `labels` int64 [k] and `boxes` [k, 4] (xyxy, pixels), on any device.
            image_ids: the images' ids.
            category_ids: the category id of every label; None: its detections are left out; empty: labels are the ids.
        """
        if not results:
            return cls.from_rows(())
        boxes = torch.cat([result["boxes"] for result in results])  # [N, 4]
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), dim=1)  # xyxy -> xywh
        labels = torch.cat([result["labels"] for result in results]).cpu().numpy()
        scores = torch.cat([result["scores"] for result in results])
        counts = [len(result["scores"]) for result in results]
        categories = np.array([category or 0 for category in category_ids], dtype=np.int64)
        known = np.array([category is not None for category in category_ids], dtype=bool)
        found = cls(
            np.repeat(np.asarray(image_ids, dtype=np.int64), counts),
            categories[labels] if len(category_ids) else labels,
            boxes.double().cpu().numpy(),
            scores.double().cpu().numpy(),
        )
        return found if known.all() else found[known[labels]]

    @classmethod
    def concat(cls, parts: Sequence["Detections"]) -> "Detections":
        """All detections of all parts, in their order."""
        if not parts:
            return cls.from_rows(())
        return cls(
            np.concatenate([part.image_ids for part in parts]),
            np.concatenate([part.category_ids for part in parts]),
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )


Found = Detections | Sequence[Mapping[str, Any]]


def as_detections(found: Found) -> Detections:
    """Detections, or COCO result rows, as Detections."""
    return found if isinstance(found, Detections) else Detections.from_rows(found)
