"""Training batches as a function of seed and step, so that a resumed training sees what it would have seen."""

from collections.abc import Generator
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from greedyprune.data.coco import CocoDetection, Item
from greedyprune.data.seeded import SeededItems, epoch_order, start_worker
from greedyprune.errors import UserError
from greedyprune.models import ImageBatch, pad_images
from greedyprune.training.config import RunOptions, TrainOptions
from greedyprune.training.distributed import World

Part = tuple[ImageBatch, list[dict[str, Any]]]


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

    Raises:
        UserError: a batch that cannot be cut evenly, or too few images.
    """

    def __init__(self, dataset: CocoDetection, options: TrainOptions, run: RunOptions, world: World) -> None:
        self.dataset, self.options, self.run, self.world = dataset, options, run, world
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
        loader: DataLoader[Any] = DataLoader(
            SeededItems(self.dataset, self.options.seed, epoch),
            batch_sampler=batches,
            num_workers=self.run.num_workers,
            collate_fn=self._collate,
            worker_init_fn=start_worker,
            pin_memory=self.world.device.type == "cuda",
        )
        batches_of_parts = iter(loader)
        try:
            for _ in range(start, self.steps_per_epoch):
                yield [next(batches_of_parts) for _ in range(self.run.accumulate)]
        finally:
            # An exception's traceback would keep the workers waiting for as long as someone holds on to it.
            if isinstance(batches_of_parts, _MultiProcessingDataLoaderIter):
                batches_of_parts._shutdown_workers()

    def _collate(self, items: list[Item]) -> Part:
        images = pad_images([image for image, _ in items])
        if self.run.channels_last:
            images = images._replace(tensors=images.tensors.contiguous(memory_format=torch.channels_last))
        return images, [target for _, target in items]
