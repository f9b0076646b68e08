"""Data whose ground truth is what a detector finds: a detector with random weights has an AP on it."""

import json
import shutil
from pathlib import Path

from greedyprune.data.coco import CocoDetection
from greedyprune.data.loader import make_loader
from greedyprune.data.transforms import eval_transform
from greedyprune.evaluation.predict import predict_detections
from greedyprune.families import family_of
from greedyprune.models import Detector

OBJECTS = 3  # in an image


def annotated_by(model: Detector, data: Path, folder: Path) -> Path:
    """A copy of a data set, whose validation images have the best detections of a detector for objects."""
    shutil.copytree(data, folder)
    info = model.info
    images = CocoDetection(folder, "val", info.category_ids, eval_transform(info.short_side, info.long_side))
    family = family_of(model)
    found = predict_detections(family, model.eval(), make_loader(images, 8), category_ids=info.category_ids).rows()
    best = [
        sorted((row for row in found if row["image_id"] == image), key=lambda row: -row["score"])[:OBJECTS]
        for image in images.image_ids
    ]
    path = folder / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"] = [
        {"id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0, **row}
        for number, row in enumerate((row for rows in best for row in rows), 1)
    ]
    path.write_text(json.dumps(content))
    return folder
