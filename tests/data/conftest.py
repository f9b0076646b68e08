import json

import numpy as np
import pytest
from PIL import Image

from greedyprune.data import make_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A small `shapes` set."""
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train_images=50, val_images=100, workers=2)


@pytest.fixture
def tiny():
    """Writes a set of given images and annotations as its validation split, and returns its folder."""

    def write(folder, images, annotations, categories=((3, "cat"), (9, "dog"))):
        """`images`: `[h, w, 3]` uint8 by id."""
        (folder / "val2017").mkdir(parents=True)
        (folder / "annotations").mkdir()
        listed = []
        for image_id, pixels in images.items():
            name = f"{image_id}.png"
            Image.fromarray(pixels).save(folder / "val2017" / name)
            listed.append({"id": image_id, "file_name": name, "height": len(pixels), "width": pixels.shape[1]})
        data = {
            "images": listed,
            "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)],
            "categories": [{"id": category, "name": name} for category, name in categories],
        }
        (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(data))
        return folder

    return write


@pytest.fixture
def two_images(tmp_path, tiny):
    """Images 5 (20 x 30 pixels, two boxes, a crowd) and 2 (16 x 16, empty)."""
    images = {5: np.full((20, 30, 3), 40, np.uint8), 2: np.full((16, 16, 3), 200, np.uint8)}
    annotations = [
        {"image_id": 5, "category_id": 9, "bbox": [3.0, 4.0, 10.0, 8.0]},
        {"image_id": 5, "category_id": 3, "bbox": [20.0, -5.0, 50.0, 15.0]},
        {"image_id": 5, "category_id": 3, "bbox": [1.0, 1.0, 9.0, 9.0], "iscrowd": 1, "area": 81.0},
    ]
    return tiny(tmp_path / "two", images, annotations)
