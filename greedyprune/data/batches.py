"""Batches of some images of a data set that can be gone through again and again."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Subset

from greedyprune.data.coco import CocoDetection
from greedyprune.data.loader import make_loader

Progress = Callable[[Iterable[Any]], Iterable[Any]]


class DatasetBatches:
    """Batches of some images of a data set.

    Args:
        dataset: images with the evaluation transform.
        ids: which of them, in any order.
        batch_size: images in a batch.
        num_workers: processes that decode.
        progress: shows a bar while all of them are gone through for the first time.

    Attributes:
        ids: sorted.
    """

    ids: Sequence[int]

    def __init__(
        self,
        dataset: CocoDetection,
        ids: Sequence[int],
        batch_size: int,
        num_workers: int = 0,
        progress: Progress | None = None,
    ) -> None:
        position = {image: index for index, image in enumerate(dataset.image_ids)}
        self.ids = sorted(ids)
        self.batch_size = batch_size
        self._dataset, self._items = dataset, [position[image] for image in self.ids]
        self._num_workers, self._progress = num_workers, progress

    def __len__(self) -> int:
        return len(self.ids)

    def iterate(self, first: int = 0) -> Iterator[tuple[Sequence[Tensor], list[dict[str, Any]]]]:
        """The batches from one on, with their targets."""
        items = self._items[first * self.batch_size :]
        if not items:
            return
        loader = make_loader(Subset(self._dataset, items), self.batch_size, num_workers=self._num_workers)
        progress, self._progress = self._progress, None
        yield from progress(loader) if progress else loader
