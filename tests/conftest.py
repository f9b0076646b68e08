"""What holds for all tests."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from greedyprune.data import splits
from greedyprune.failures import advise


def pytest_configure() -> None:
    # A shell starts what it runs in the background with Ctrl-C ignored, and the tools leave an ignored signal so; tests
    # that send one expect what a terminal does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Small tensors gain nothing from threads, and several processes of tests would be in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """A test finds the same random numbers whatever ran before it, and leaves nothing of a tool's call behind."""
    torch.manual_seed(0)
    yield
    advise(())
    splits._note.cache_clear()
    torch.set_num_threads(1)
