"""What happens in the processes of a DataLoader: how they answer signals, and how they hand over a batch.

PyTorch would give every tensor a file of shared memory of its own, from a thread whose failure nobody hears of: a batch
takes as many open files as it has tensors, and where shared memory is full its reader waits for ever. Here a batch is
one file, made where a failure reaches the reader.
"""

import errno
import io
import multiprocessing.queues
import os
import pickle
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from greedyprune.processes import answer

_GRACE = 60  # seconds that a worker lives on after SIGTERM
_LARGE = 65_536  # bytes from which on a tensor is shared instead of sent
_ALIGNED = 64  # bytes of which every shared tensor's place is a multiple


class _Place(NamedTuple):
    """A tensor inside a parcel's memory."""

    start: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Parcel(NamedTuple):
    """A batch on its way to the reader.

    Attributes:
        memory: uint8 `[n]`, shared: all its large tensors.
        rest: everything else, pickled.
    """

    memory: Tensor
    rest: bytes


class Packing:
    """A collate function whose batches come as parcels where a worker makes them.

    Args:
        collate: makes a batch of items.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Any:
        batch = self.collate(items)
        return batch if get_worker_info() is None else pack(batch)


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.large: list[tuple[int, Tensor]] = []
        self.end = 0

    def persistent_id(self, part: Any) -> _Place | None:
        if type(part) is not Tensor or part.nbytes < _LARGE:
            return None
        dense = part.untyped_storage().nbytes() == part.nbytes and part.storage_offset() == 0
        tensor = part if dense else part.contiguous()  # a dense one may be channels-last, and stays so
        start, self.end = self.end, self.end + -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        self.large.append((start, tensor))
        return _Place(start, tensor.dtype, tuple(tensor.shape), tensor.stride())


class _Unpacker(pickle.Unpickler):
    def __init__(self, parcel: Parcel) -> None:
        super().__init__(io.BytesIO(parcel.rest))
        self.memory = parcel.memory

    def persistent_load(self, place: _Place) -> Tensor:
        return _at(self.memory, place)


def _at(memory: Tensor, place: _Place) -> Tensor:
    count = 1
    for side in place.size:
        count *= side
    own = memory[place.start : place.start + count * place.dtype.itemsize].view(place.dtype)  # [count]
    return own.as_strided(place.size, place.stride, own.storage_offset())


def pack(batch: Any) -> Parcel:
    """Any structure of tensors as one piece of shared memory and bytes.

    Raises:
        RuntimeError: no shared memory is left, or too many files are open.
    """
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(batch)
    memory = torch.empty(packer.end, dtype=torch.uint8)
    if packer.end:
        memory.share_memory_()
    for start, tensor in packer.large:
        place = _Place(start, tensor.dtype, tuple(tensor.shape), tensor.stride())
        _at(memory, place).copy_(tensor)
    return Parcel(memory, file.getvalue())


def unpack(batch: Any) -> Any:
    """What `pack` packed; anything else as it is."""
    # Only this program's own workers write into the pipe that it is read from.
    return _Unpacker(batch).load() if isinstance(batch, Parcel) else batch


def start_worker(worker: int) -> None:
    """For a DataLoader's `worker_init_fn`: one thread, and deaf to signals for as long as it takes to stop cleanly."""
    torch.set_num_threads(1)
    # A signal to the whole group reaches the workers, too, and the step under way still needs them.
    answer(lambda number, frame: signal.alarm(_GRACE))
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_give_up)  # type: ignore[attr-defined]


def _give_up(error: BaseException, item: object) -> None:
    """A batch that cannot be handed over is lost: the reader hears of a worker that has ended, and of what."""
    number = error.errno if isinstance(error, OSError) else None
    os._exit(number if number in (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM) else 1)
