"""Batches of items."""

import signal
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Item = tuple[Tensor, dict[str, Any]]
Batch = tuple[list[Tensor], list[dict[str, Any]]]


def collate(items: Sequence[Item]) -> Batch:
    """Items as a list of images, which may differ in size, and a list of their targets."""
    return [image for image, _ in items], [target for _, target in items]


def make_loader(
    dataset: Dataset[Item],
    batch_size: int,
    *,
    num_workers: int = 0,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    sampler: Sampler[int] | None = None,
) -> DataLoader[Any]:
    """A loader of a data set or of a Subset of one; it gives what `collate` returns.

    Args:
        dataset: gives items of `CocoDetection`.
        batch_size: images in a batch.
        num_workers: processes that decode, which stay for the next epoch; 0: this one decodes.
        shuffle: another order in each epoch, all of them decided by the seed.
        seed: of the order, and of what is random in the workers.
        drop_last: leave out a last batch with fewer images.
        sampler: gives the order instead.
    """
    return DataLoader(
        dataset,
        batch_size,
        shuffle=shuffle,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        drop_last=drop_last,
        generator=torch.Generator().manual_seed(seed),
        worker_init_fn=_ignore_interrupts,
        persistent_workers=num_workers > 0,
    )


def _ignore_interrupts(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the workers, too; the main process ends them
