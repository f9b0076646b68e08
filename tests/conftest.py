"""What holds for all tests."""

import signal
from collections.abc import Iterator

import pytest

from greedyprune.failures import advise


def pytest_configure() -> None:
    # A shell starts what it runs in the background with Ctrl-C ignored, and the tools leave an ignored signal so; tests
    # that send one expect what a terminal does.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_tool_runs() -> Iterator[None]:
    """A test that reads a tool's options in this process leaves its advice to those flags behind."""
    yield
    advise(())
