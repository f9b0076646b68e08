"""Processes that work for this one: none is started unprepared for a signal, and none is left behind."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from greedyprune.interrupts import SIGNALS, interrupts


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start processes inside: signals wait, in them until they `answer`; if it fails, those that run are killed."""
    before, mask = set(multiprocessing.active_children()), None
    if hasattr(signal, "pthread_sigmask"):
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with interrupts.held():
            try:
                yield
            finally:
                if mask is not None:
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        raise


def end_children() -> None:
    """End what an interrupt kept from being ended in order; Python would wait for it before it exits."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler raises when a worker is killed
    for process in multiprocessing.active_children():
        process.kill()


def answer(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """In a process that was started: SIGINT, which Ctrl-C sends to it as well, is its parent's; see to the others so.

    A signal to the whole group of processes reaches those that are being started, too: held back until here, it finds
    them prepared.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else handler)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
