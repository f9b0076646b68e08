"""Data parallel training over processes that torchrun started; one process is the case of size 1."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from greedyprune.errors import UserError


@dataclass(frozen=True)
class World:
    """The processes of a training.

    Attributes:
        rank: this process; 0 logs and saves.
        size: how many there are.
        device: where this process computes.
        control: group for small messages between CPUs, which leave a GPU's queue alone.
    """

    rank: int
    size: int
    device: torch.device
    control: Any = None

    @property
    def main(self) -> bool:
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Sums over all processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def wrap(self, model: nn.Module, unused: bool) -> nn.Module:
        """The module to call in training: its gradients are averaged over the processes.

        Args:
            model: on this process's device.
            unused: some of its parameters may get no gradient.

        On GPUs batch norm takes its statistics over all processes. On CPUs PyTorch has no such norm: each process
        normalises its own images, and the running statistics are the first one's.
        """
        if self.size == 1:
            return model
        cuda = self.device.type == "cuda"
        network = nn.SyncBatchNorm.convert_sync_batchnorm(model) if cuda else model
        return DistributedDataParallel(
            network,
            device_ids=[self.device] if cuda else None,
            find_unused_parameters=unused,
            gradient_as_bucket_view=True,
        )


@contextlib.contextmanager
def open_world(device: torch.device) -> Iterator[World]:
    """Join the processes that torchrun started; without torchrun, a world of one.

    Args:
        device: of `--device`; with several processes on GPUs each takes the one of its local rank.

    Raises:
        UserError: more processes than GPUs, or they do not find each other.
    """
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield World(0, 1, device)
        return
    cuda = device.type == "cuda"
    if cuda:
        local = _number("LOCAL_RANK", 0)
        if local >= torch.cuda.device_count():
            raise UserError(
                f"torchrun started process {local + 1} on a machine with {torch.cuda.device_count()} GPUs; "
                "use a smaller --nproc_per_node"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    # While the first process computes an AP the others wait; on large data that outlasts the default timeouts.
    timeout = timedelta(hours=2)
    try:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timeout)
    except ValueError as error:  # an environment variable is missing or makes no sense
        raise UserError(f"WORLD_SIZE is {size}, but its processes cannot be joined: {error}; use torchrun") from None
    try:
        control = dist.new_group(backend="gloo", timeout=timeout) if cuda else dist.group.WORLD
        yield World(dist.get_rank(), size, device, control)
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    """What torchrun says in an environment variable."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UserError(f"the environment variable {name} is {text!r}, not a number; use torchrun, or unset it")
    return int(text)


@contextlib.contextmanager
def without_sync(network: nn.Module, skip: bool) -> Iterator[None]:
    """A backward pass inside, where `skip` is set, leaves its gradients to this process until a later one."""
    if skip and isinstance(network, DistributedDataParallel):
        with network.no_sync():
            yield
    else:
        yield
