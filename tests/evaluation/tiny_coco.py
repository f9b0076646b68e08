"""A few small images on the disk in COCO's layout, and a detector with random weights for them."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from greedyprune import build_model
from greedyprune.models import Detector, ModelInfo

CATEGORIES = {3: "box", 8: "disc"}
SIZE = (64, 48)
# Another id for each, an unused class 0, one name but for its case, and a name that is markup to a terminal.
RENAMED = {0: "__background__", 5: " Disc", 6: "[/red]\n"}
MOVED = {3: 6, 8: 5}


def write_tiny(folder: Path, images: int = 6, split: str = "val") -> Path:
    """Noise with a rectangle and an ellipse on it; the last image is empty."""
    random = np.random.default_rng(0)
    (folder / f"{split}2017").mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    listed, annotations = [], []
    for number in range(1, images + 1):
        image = Image.fromarray(random.integers(0, 90, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
        for category in CATEGORIES if number < images else ():
            x, y = random.integers(0, 30), random.integers(0, 20)
            draw = ImageDraw.Draw(image)
            (draw.rectangle if category == 3 else draw.ellipse)((x, y, x + 25, y + 18), fill="white")
            box = [float(x), float(y), 25.0, 18.0]
            annotation = {"id": len(annotations) + 1, "image_id": 10 * number, "category_id": category, "bbox": box}
            annotations.append({**annotation, "area": 450.0, "iscrowd": 0, "segmentation": []})
        image.save(folder / f"{split}2017" / f"{number}.png")
        listed.append({"id": 10 * number, "file_name": f"{number}.png", "width": SIZE[0], "height": SIZE[1]})
    content = {
        "images": listed,
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
    }
    (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return folder


def renumber(folder: Path, names: dict[int, str], moved: dict[int, int]) -> Path:
    """Other names and ids for a data set's categories, in place."""
    for path in (folder / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["categories"] = [{"id": category, "name": name} for category, name in names.items()]
        for annotation in content["annotations"]:
            annotation["category_id"] = moved[annotation["category_id"]]
        path.write_text(json.dumps(content))
    return folder


def tiny_model(categories: dict[int, str] = CATEGORIES, short_side: int = 48) -> Detector:
    """2,000 or so weights, always the same."""
    torch.manual_seed(0)
    return build_model(
        "dn_detr",
        info=ModelInfo(tuple(categories.values()), tuple(categories), short_side, 2 * short_side),
        num_classes=len(categories),
        hidden_dim=16,
        heads=2,
        enc_layers=1,
        dec_layers=1,
        ffn_dim=8,
        num_queries=9,
        backbone="small",
    )
