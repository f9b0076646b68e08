"""Training batches as a function of seed and step, so that a resumed training sees what it would have seen."""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from torch import Tensor

from greedyprune.data.coco import CocoDetection, Item
from greedyprune.data.loader import Loader
from greedyprune.data.seeded import SeededItems, epoch_order
from greedyprune.errors import UserError
from greedyprune.training.config import RunOptions, TrainOptions
from greedyprune.training.distributed import World

Part = tuple[Any, list[dict[str, Any]]]  # what `gather` makes of images, and their targets
Gather = Callable[[list[Tensor], bool], Any]


def cached(dataset: CocoDetection, images: int) -> CocoDetection:
    """A copy that has its first images in memory, where worker processes share them instead of each its own."""
    copy = CocoDetection(
        dataset.root, "train", dataset.category_ids, lambda image, target: (image, target), cache_images=True
    )
    for index in range(images):
        copy[index]
    copy.transform = dataset.transform
    return copy


class Feed:
    """The batches of a training, for one process.

    A step's `batch_size` images are cut into `accumulate` parts for every process; images left over at the end of an
    epoch are not used in it.

    Args:
        dataset: training images with their augmentation.
        options: batch size, seed and number of images.
        run: accumulation, workers and memory format.
        world: which share of a step is this process's.
        gather: makes a batch of normalised images `[3, h, w]`, where they are decoded; it is told whether in
            channels-last memory. See `Recipe.gather`.

    Raises:
        UserError: a batch that cannot be cut evenly, or too few images.
    """

    def __init__(
        self, dataset: CocoDetection, options: TrainOptions, run: RunOptions, world: World, gather: Gather
    ) -> None:
        self.dataset, self.options, self.run, self.world, self._gather = dataset, options, run, world, gather
        cuts = run.accumulate * world.size
        if options.batch_size % cuts:
            raise UserError(
                f"--batch_size {options.batch_size} is not a multiple of --accumulate {run.accumulate} "
                f"x {world.size} processes"
            )
        self.part_size = options.batch_size // cuts
        self.images = min(options.train_images, len(dataset)) if options.train_images else len(dataset)
        self.steps_per_epoch = self.images // options.batch_size
        if not self.images:
            raise UserError(f"there are no images in {dataset.folder} to train on; give other data as --coco_path")
        if not self.steps_per_epoch:
            raise UserError(
                f"there are {self.images} training images, fewer than --batch_size {options.batch_size}; "
                "use a smaller one"
            )
        if run.cache_images:
            self.dataset = cached(dataset, self.images)

    def steps(self, epoch: int, start: int) -> Generator[list[Part], None, None]:
        """This process's parts of every step of an epoch (from 0), from its step `start` on."""
        order = epoch_order(self.images, self.options.seed, epoch)
        batches = []
        for step in range(start, self.steps_per_epoch):
            for part in range(self.run.accumulate):
                first = step * self.options.batch_size + (part * self.world.size + self.world.rank) * self.part_size
                batches.append(order[first : first + self.part_size])
        loader = Loader(
            SeededItems(self.dataset, self.options.seed, epoch),
            self._collate,
            self.run.num_workers,
            batch_sampler=batches,
            pin_memory=self.world.device.type == "cuda",
        )
        with contextlib.closing(iter(loader)) as parts:
            for _ in range(start, self.steps_per_epoch):
                yield [next(parts) for _ in range(self.run.accumulate)]

    def _collate(self, items: list[Item]) -> Part:
        images = self._gather([image for image, _ in items], self.run.channels_last)
        return images, [target for _, target in items]
