"""What mending keeps of its images: in memory while there is room, and in files beyond it."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import torch

from greedyprune.errors import UserError
from greedyprune.pruning.tree import map_tensors, storages, tensors_in

Item = TypeVar("Item")


class Shelf(Sequence[Item], Generic[Item]):
    """Things made of tensors, one for each batch of images; the same comes back whether it was in memory or not.

    Args:
        store: the memory, and the folder, that shelves share.
        items: what to keep.
    """

    def __init__(self, store: "Store", items: Iterable[Item]) -> None:
        self._store = store
        self._items: list[tuple[Any, int]] = []
        for item in items:
            self._items.append(store.put(item))

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._store.get(self._items[index][0])

    def replace(self, make: Callable[..., Item], *others: Iterable[Any]) -> None:
        """Make something else of every item, and of what `others` hold beside it, one after another."""
        for index, given in enumerate(zip(self, *others, strict=True)):
            item = make(*given)
            self._store.drop(*self._items[index])
            self._items[index] = self._store.put(item)

    def clear(self) -> None:
        """Keep nothing any more."""
        while self._items:
            self._store.drop(*self._items.pop())

    def forever(self) -> Iterator[Item]:
        """All items, over and over."""
        while True:
            yield from self


class Store:
    """Memory and files for shelves; a context manager, after which the files are gone.

    Args:
        room: bytes of memory. What does not fit goes to the folder for temporary files (TMPDIR).
    """

    def __init__(self, room: int) -> None:
        self._left = room
        self._folder = tempfile.TemporaryDirectory(prefix="greedyprune-")
        self._files = 0

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def put(self, item: Any) -> tuple[Any, int]:
        """Where it is kept, itself or a file, and the bytes of memory that it takes.

        Raises:
            UserError: it does not fit into memory, and the disk is full.
        """
        size = sum(storages(item).values())
        if size <= self._left:
            self._left -= size
            return item, size
        path = Path(self._folder.name, str(self._files))
        self._files += 1
        try:
            with path.open("wb") as file:
                torch.save(tensors_in(item), file)
        except (OSError, RuntimeError) as error:
            # PyTorch fails once more on the way out, where it wants to end what it could not write.
            reason = error if isinstance(error, OSError) else error.__context__
            if not isinstance(reason, OSError):
                raise
            raise UserError(
                f"{path.parent} cannot take what does not fit into memory: {reason.strerror}; free some space there, "
                "set TMPDIR to a folder on a larger disk, or give a larger --cache_gb"
            ) from None
        numbers = count()
        return _Filed(path, map_tensors(item, lambda tensor: _Number(next(numbers)))), 0

    def get(self, place: Any) -> Any:
        if not isinstance(place, _Filed):
            return place
        tensors = torch.load(place.path, weights_only=True)
        return map_tensors(place.structure, lambda number: tensors[number.place], _Number)

    def drop(self, place: Any, size: int) -> None:
        self._left += size
        if isinstance(place, _Filed):
            place.path.unlink()


@dataclass(frozen=True)
class _Number:
    """Stands for a tensor that is in a file."""

    place: int


@dataclass(frozen=True)
class _Filed:
    """A thing whose tensors are in a file."""

    path: Path
    structure: Any
