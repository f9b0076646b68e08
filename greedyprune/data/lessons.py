"""Training images that slim models are mended on."""

from collections.abc import Iterator, Sequence
from copy import copy
from itertools import count

import torch
from torch import Tensor
from torch.utils.data import Subset

from greedyprune.data.coco import CocoDetection
from greedyprune.data.loader import Loader, collate
from greedyprune.data.seeded import SeededItems, epoch_order
from greedyprune.data.transforms import form_transform
from greedyprune.image_form import ImageForm


class Lessons:
    """Images over and over, each time augmented anew; from its start whenever it is iterated over.

    Args:
        dataset: the training set; its transform is replaced.
        ids: which images.
        augment: see `form_transform`.
        form: of the images, as the model wants them.
        batch_size: images in a batch.
        seed: of the order and the augmentation.
        device: where the batches are wanted.
        num_workers: processes that decode.
    """

    def __init__(
        self,
        dataset: CocoDetection,
        ids: Sequence[int],
        augment: str,
        form: ImageForm,
        batch_size: int,
        seed: int,
        device: torch.device,
        num_workers: int = 0,
    ) -> None:
        augmented = copy(dataset)
        augmented.transform = form_transform(form, augment)
        position = {image: index for index, image in enumerate(dataset.image_ids)}
        self._images = Subset(augmented, [position[image] for image in ids])
        self._batch_size, self._seed, self._device, self._num_workers = batch_size, seed, device, num_workers

    def __iter__(self) -> Iterator[list[Tensor]]:
        for epoch in count():
            order = epoch_order(len(self._images), self._seed, epoch)
            batches = [order[i : i + self._batch_size] for i in range(0, len(order), self._batch_size)]
            items = SeededItems(self._images, self._seed, epoch)
            loader = Loader(items, collate, self._num_workers, batch_sampler=batches)
            for images, _ in loader:
                yield [image.to(self._device) for image in images]
