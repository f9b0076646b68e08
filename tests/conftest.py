"""What holds for all tests."""

import signal


def pytest_configure() -> None:
    # A shell starts what it runs in the background with Ctrl-C ignored, and the tools leave an ignored signal so; tests
    # that send one expect what a terminal does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
