"""The AP of a model in training, measured by all processes together."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import Subset

from greedyprune.classes import map_labels
from greedyprune.data.coco import CocoDetection
from greedyprune.data.loader import Loader, collate
from greedyprune.evaluation.ap import coco_ap
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.evaluate import subset_ids
from greedyprune.evaluation.predict import predict_detections
from greedyprune.families import family_of
from greedyprune.training.config import RunOptions, TrainOptions
from greedyprune.training.distributed import World


class Validation:
    """Evaluates on the validation images, each process on its share, in float32.

    Args:
        dataset: validation images with the evaluation transform.
        options: number of images and the seed that chooses them; batch size.
        run: number of workers.
        world: the processes.
    """

    def __init__(self, dataset: CocoDetection, options: TrainOptions, run: RunOptions, world: World) -> None:
        self.dataset, self.world = dataset, world
        self.image_ids = subset_ids(dataset.image_ids, options.eval_images, options.seed)
        place = {image: index for index, image in enumerate(dataset.image_ids)}
        share = Subset(dataset, [place[image] for image in self.image_ids[world.rank :: world.size]])
        self.loader = Loader(share, collate, run.num_workers, batch_size=max(1, options.batch_size // world.size))

    def measure(
        self, model: nn.Module, progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None
    ) -> dict[str, Any] | None:
        """What `coco_ap` returns, in the first process; None in the others.

        Args:
            model: on the process's device; the same in all processes.
            progress: wraps the loader.
        """
        loader: Iterable[Any] = self.loader if progress is None else progress(self.loader)
        family = family_of(model)
        categories = map_labels(family.classes(model), self.dataset.coco, self.dataset.root).categories
        parts = self.world.gather(predict_detections(family, model, loader, category_ids=categories))
        if not self.world.main:
            return None
        found = Detections.concat(parts)
        # Equal scores are ranked by place: in the images' order, whatever the number of processes.
        return coco_ap(self.dataset.coco, found[np.argsort(found.image_ids, kind="stable")], self.image_ids)
