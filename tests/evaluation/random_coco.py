"""Random ground truth and detections that meet every branch of COCO's matching."""

import contextlib
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO


def make_coco(annotations: list[dict[str, Any]], image_ids: list[int], category_ids: list[int]) -> COCO:
    """A pycocotools COCO of these annotations; what they leave out is filled in."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image, "width": 160, "height": 160} for image in image_ids],
        "categories": [{"id": category, "name": f"class {category}"} for category in category_ids],
        "annotations": [
            {"id": number, "area": a["bbox"][2] * a["bbox"][3], "iscrowd": 0, **a}
            for number, a in enumerate(annotations, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def random_coco(
    seed: int, images: int = 20, classes: int = 4, truths: int = 6, answers: int = 60, crowds: float = 0.2
) -> tuple[COCO, list[dict[str, Any]]]:
    """Ground truth with crowds, empty images and objects of every size, and detections with equal scores among them.

    Args:
        seed: chooses everything.
        images: number of images; some have no object.
        classes: number of categories; ids are not contiguous, and the last has no ground truth.
        truths: objects in an image on average.
        answers: detections in each image.
        crowds: share of crowds.
    """
    random = np.random.default_rng(seed)
    image_ids = [7 * number + 3 for number in range(images)]
    category_ids = [5 * number + 2 for number in range(classes)]
    annotations, rows = [], []
    for image in image_ids:
        objects = []
        for _ in range(random.integers(0, 2 * truths + 1)):
            size = np.exp(random.uniform(np.log(8), np.log(150), 2))
            box = [*random.uniform(0, 160 - size).tolist(), *size.tolist()]
            objects.append((box, int(random.choice(category_ids[:-1]))))
            annotations.append(
                {
                    "image_id": image,
                    "category_id": objects[-1][1],
                    "bbox": box,
                    "area": box[2] * box[3] * float(random.uniform(0.4, 1)),
                    "iscrowd": int(random.random() < crowds),
                }
            )
        for _ in range(answers):
            if objects and random.random() < 0.6:
                box, category = objects[random.integers(len(objects))]
                box = (np.array(box) + random.normal(0, 0.06, 4) * box[2]).clip(0.5).tolist()
            else:
                box, category = random.uniform(1, 150, 4).tolist(), int(random.choice(category_ids))
            score = round(float(random.random()), int(random.integers(1, 6)))
            rows.append({"image_id": image, "category_id": category, "bbox": box, "score": score})
    return make_coco(annotations, image_ids, category_ids), rows
