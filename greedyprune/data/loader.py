"""Batches of items."""

import traceback
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from greedyprune.data.workers import Packing, start_worker, unpack
from greedyprune.errors import UserError
from greedyprune.failures import explain, not_started
from greedyprune.processes import starting
from greedyprune.ranges import BATCH, PROCESSES_OR_NONE

Item = tuple[Tensor, dict[str, Any]]
Batch = tuple[list[Tensor], list[dict[str, Any]]]
Made = TypeVar("Made")


def collate(items: Sequence[Item]) -> Batch:
    """Items as a list of images, which may differ in size, and a list of their targets."""
    return [image for image, _ in items], [target for _, target in items]


class Loader(Generic[Made]):
    """Batches, made anew whenever they are iterated over.

    Args:
        dataset: gives items.
        collate: makes a batch of items.
        num_workers: processes that decode; 0: this one decodes.
        stay: the processes stay for the next time.
        how: further arguments of DataLoader, which say which items are in a batch.

    Raises:
        UserError: on making it: `num_workers` is out of its range. On iterating: a worker was killed, ran out of
            memory, shared memory or open files, or could not be started. The next iteration starts new ones.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        collate: Callable[[list[Any]], Made],
        num_workers: int,
        *,
        stay: bool = False,
        **how: Any,
    ) -> None:
        PROCESSES_OR_NONE.check(num_workers, "num_workers")
        self._stay = stay and num_workers > 0
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            num_workers=num_workers,
            collate_fn=Packing(collate),
            worker_init_fn=start_worker,
            persistent_workers=self._stay,
            **how,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Generator[Made, None, None]:
        if not self._loader.num_workers:
            yield from self._loader
            return
        batches, finished = self._start(), False
        try:
            for batch in batches:
                yield cast(Made, unpack(batch))
                del batch  # its memory is not to wait for the next one
            finished = True
        except UserError as error:
            # A worker's comes with the worker's traceback for a message, whose last line it is.
            raise type(error)(str(error).strip().splitlines()[-1].removeprefix(f"{_name(error)}: ")) from None
        except (OSError, RuntimeError, MemoryError) as error:
            line = explain(error)
            if line is None:
                raise
            raise UserError(line) from None
        finally:
            if not (finished and self._stay):
                self._stop(batches)

    def _start(self) -> _MultiProcessingDataLoaderIter:
        try:
            with starting():
                return cast(_MultiProcessingDataLoaderIter, iter(self._loader))
        except BaseException as error:
            for frame, _ in traceback.walk_tb(error.__traceback__):
                half = frame.f_locals.get("self")
                if isinstance(half, _MultiProcessingDataLoaderIter):
                    half._shutdown = True  # its finalizer would look for what it never got
            if isinstance(error, OSError | RuntimeError):
                raise not_started(error, f"--num_workers {self._loader.num_workers}") from None
            raise

    def _stop(self, batches: _MultiProcessingDataLoaderIter) -> None:
        """End the workers: nobody else does while an exception's traceback holds on to them."""
        self._loader._iterator = None
        batches._shutdown_workers()
        for process in batches._workers:
            if process.is_alive():  # and deaf to all but this
                process.kill()


def _name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def make_loader(
    dataset: Dataset[Item],
    batch_size: int,
    *,
    num_workers: int = 0,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    sampler: Sampler[int] | None = None,
) -> Loader[Batch]:
    """A loader of a data set or of a Subset of one; it gives what `collate` returns.

    Args:
        dataset: gives items of `CocoDetection`.
        batch_size: images in a batch.
        num_workers: processes that decode; see `Loader`.
        shuffle: another order in each epoch, all of them decided by the seed.
        seed: of the order, and of what is random in the workers.
        drop_last: leave out a last batch with fewer images.
        sampler: gives the order instead.

    Raises:
        UserError: a number is out of its range.
    """
    BATCH.check(batch_size, "batch_size")
    return Loader(
        dataset,
        collate,
        num_workers,
        stay=True,
        batch_size=batch_size,
        shuffle=shuffle,
        sampler=sampler,
        drop_last=drop_last,
        generator=torch.Generator().manual_seed(seed),
    )
