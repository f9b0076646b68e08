"""Images as the part of a detector that is searched gets them: what lies before it is kept while there is room."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from greedyprune.data.coco import CocoDetection
from greedyprune.data.loader import make_loader
from greedyprune.models.deploy import deployed
from greedyprune.models.detector import Detector
from greedyprune.models.matcher import Target
from greedyprune.pruning.prefix import Place, Prefix, advance, begin
from greedyprune.pruning.shelf import storages

Progress = Callable[[Iterable[Any]], Iterable[Any]]
Targets = list[dict[str, Any]]
BEGINNING = Place(False, 0)


class Room:
    """Memory for what all the images of a search are kept as.

    Args:
        size: bytes.

    Attributes:
        used: bytes that are taken.
    """

    def __init__(self, size: int) -> None:
        self.size, self.used = size, 0
        self._owners: list[Images] = []

    @property
    def spare(self) -> int:
        """Bytes that nothing takes."""
        return max(0, self.size - self.used)

    def enter(self, owner: "Images") -> None:
        """From now on `owner` takes from this room; it has to make way for those that entered before it."""
        self._owners.append(owner)

    def take(self, owner: "Images", size: int) -> bool:
        """Take so many bytes more (less, where negative); False: there is no room, and nothing is taken."""
        for other in reversed(self._owners[self._owners.index(owner) + 1 :]):
            while self.used + size > self.size and len(other.start):
                other.drop()
        if size > 0 and self.used + size > self.size:
            return False
        self.used += size
        return True


class Images:
    """Some images of a data set, in batches, each as far as the place where the search stands.

    As many batches as there is room for, the first ones, are kept: before the first encoder layer, so that the backbone
    runs once for them, and at the place. The others are computed from the images again whenever they are asked for.
    What comes out is the same, to the bit.

    Args:
        model: the dense detector; only its backbone and projection are used yet.
        dataset: images with the evaluation transform.
        ids: which of them, in any order.
        batch_size: images in a batch.
        room: where batches are kept. Images that are needed more often are to be made first.
        num_workers: processes that decode.
        progress: wraps the loader, to show a bar while the backbone runs.

    Attributes:
        ids: sorted.
        place: the place where the search stands.
        start: the kept batches before the first encoder layer, and their targets.
        at: the same batches as far on the way to `place` as there was room for.
    """

    def __init__(
        self,
        model: Detector,
        dataset: CocoDetection,
        ids: Sequence[int],
        batch_size: int,
        room: Room,
        num_workers: int = 0,
        progress: Progress | None = None,
    ) -> None:
        position = {image: index for index, image in enumerate(dataset.image_ids)}
        self.ids = sorted(ids)
        self._dataset, self._items = dataset, [position[image] for image in self.ids]
        self._batch_size, self._num_workers, self._progress = batch_size, num_workers, progress
        self._device = next(model.parameters()).device
        self._room = room
        self._rest: tuple[int, Iterable[Any]] | None = None  # batches that are kept, and a loader of the others
        self.place = BEGINNING
        self.start: list[tuple[Prefix, Targets]] = []
        self.at: list[Prefix] = []
        room.enter(self)
        self.reload(model)

    def __len__(self) -> int:
        return len(self.ids)

    def reload(self, model: Detector) -> None:
        """Start anew because the backbone, or anything before the first encoder layer, has changed."""
        while self.start:
            self.drop()
        self.place = BEGINNING
        loader, extractor = self._loader(0), deployed(model)
        for images, targets in self._progress(loader) if self._progress else loader:
            prefix = self._begin(extractor, images)
            if not self._room.take(self, _size(prefix)):
                break
            self.start.append((prefix, targets))
            self.at.append(prefix)

    def restart(self) -> None:
        """Go back to the beginning because something after it has changed."""
        self.place = BEGINNING
        for index, (prefix, _) in enumerate(self.start):
            self._room.take(self, -_size(self.at[index], prefix))
            self.at[index] = prefix

    def move(self, model: Detector, place: Place) -> int:
        """Go to a place of `model`, whose sites before it are as they will stay until `restart`.

        Returns:
            The images that ran for it, were they all kept: what a proposal costs does not depend on the room.
        """
        if place == self.place:
            return 0
        if place < self.place:
            self.restart()
        self.place = place
        for index, (start, _) in enumerate(self.start):
            prefix = _advance(model, self.at[index], place)
            if not self._room.take(self, _size(prefix, start) - _size(self.at[index], start)):
                break
            self.at[index] = prefix
        return len(self)

    def batches(self, model: Detector) -> Iterator[tuple[Prefix, Targets]]:
        """Every batch at the place, with its targets; one that is not kept lives until the next one is asked for.

        Args:
            model: the detector; what lies before the place is as it was at `move`.
        """
        kept = len(self.start)
        for index in range(kept):
            yield _advance(model, self.at[index], self.place), self.start[index][1]
        if kept * self._batch_size < len(self):
            if self._rest is None or self._rest[0] != kept:
                self._rest = kept, self._loader(kept)
            extractor = deployed(model)
            for images, targets in self._rest[1]:
                yield _advance(model, self._begin(extractor, images), self.place), targets

    def labelled(self, model: Detector) -> Iterator[tuple[Prefix, list[Target]]]:
        """The same, with what a criterion reads of the targets."""
        for prefix, targets in self.batches(model):
            yield prefix, [{k: target[k].to(self._device) for k in ("labels", "boxes")} for target in targets]

    def pictures(self) -> Iterator[list[Tensor]]:
        """Every batch as the images themselves, normalised; decoded anew."""
        for images, _ in self._loader(0):
            yield [image.to(self._device) for image in images]

    def drop(self) -> None:
        """Give back the room of the last kept batch."""
        prefix, _ = self.start.pop()
        self._room.take(self, -_size(self.at.pop(), prefix) - _size(prefix))

    def _loader(self, left_out: int) -> Iterable[Any]:
        """All batches but so many of the first ones."""
        items = self._items[left_out * self._batch_size :]
        return make_loader(Subset(self._dataset, items), self._batch_size, num_workers=self._num_workers)

    def _begin(self, extractor: Detector, images: Sequence[Tensor]) -> Prefix:
        with torch.no_grad():  # not inference mode: calibration goes backwards through what comes after
            return begin(extractor.features([image.to(self._device) for image in images]))


def _advance(model: Detector, prefix: Prefix, place: Place) -> Prefix:
    with torch.inference_mode():
        return advance(model, prefix, place)


def _size(prefix: Prefix, apart_from: Prefix | None = None) -> int:
    """Bytes of a prefix's tensors, each memory counted once, without what it shares with another prefix."""
    sizes = storages(prefix)
    shared = {} if apart_from is None else storages(apart_from)
    return sum(size for place, size in sizes.items() if place not in shared)
