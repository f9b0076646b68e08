"""SIGINT, SIGTERM and SIGHUP: each ends a tool with one line and exit code 128 + signal, whatever it is doing.

While a tool works a signal raises KeyboardInterrupt in the main thread, so that temporary files go and a command can
say how to go on. Before that, while its libraries are loaded, see `entry`; after it a signal finds nothing left to do.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from enum import Enum
from types import FrameType
from typing import Any

SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
GRACE = 2.0  # seconds in which signals are one request: a terminal and torchrun both send it, and hands are impatient


class Phase(Enum):
    """What signals find a process doing: not listening, working, or done and leaving."""

    DEAF = 0
    WORKING = 1
    ENDED = 2


class Interrupts:
    """The signals of this process.

    Attributes:
        phase: what they find it doing.
        number: the signal that is ending it; None: none came.
    """

    def __init__(self) -> None:
        self.phase = Phase.DEAF
        self.number: int | None = None
        self._since = 0.0
        self._held: list[int] | None = None

    @property
    def exit_code(self) -> int:
        """Of a process that a signal ended: 130 for Ctrl-C."""
        return 128 + (self.number or signal.SIGINT)

    def note(self, number: int) -> bool:
        """Remember a signal; False: it only repeats the last one."""
        now = time.monotonic()
        if self.number is not None and now - self._since < GRACE:
            return False
        self.number, self._since = number, now
        return True

    def listen(self) -> None:
        """From now on signals are heard; those that are ignored (nohup, a shell's `&`) stay so."""
        self.phase, self.number = Phase.WORKING, None
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)
        sys.unraisablehook = _unraisable

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Signals are heard inside, and handled as they were before after it; a process that listens already goes on.

        Signal handlers belong to the main thread: in another one nothing changes.
        """
        if self.phase is not Phase.DEAF or threading.current_thread() is not threading.main_thread():
            yield
            return
        before, hook = {number: signal.getsignal(number) for number in SIGNALS}, sys.unraisablehook
        self.listen()
        try:
            yield
        finally:
            self.phase, sys.unraisablehook = Phase.DEAF, hook
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A signal inside waits until the end: what is done there would not survive an exception out of nowhere."""
        waiting: list[int] = []
        self._held = waiting
        try:
            yield
        finally:
            self._held = None
        for number in waiting[:1]:
            self._handle(number, None)

    def end(self) -> None:
        """What is left to do is to tell and to leave."""
        if self.phase is not Phase.DEAF:
            self.phase = Phase.ENDED

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._held is not None:
            self._held.append(number)
            return
        again = self.number is not None
        if not self.note(number):
            return
        if self.phase is Phase.WORKING and not again:
            raise KeyboardInterrupt
        os._exit(self.exit_code)


interrupts = Interrupts()


def _unraisable(fault: Any) -> None:
    """An interrupt that was raised where nothing can pass it on, as in a finalizer, is raised again a moment later."""
    if issubclass(fault.exc_type, KeyboardInterrupt) and interrupts.number is not None:
        number, interrupts.number = interrupts.number, None
        threading.Timer(0.02, os.kill, (os.getpid(), number)).start()
    else:
        sys.__unraisablehook__(fault)


def _after_fork() -> None:
    """A forked process is its parent's to end: it raises nothing, and Ctrl-C, which reaches it too, is not for it."""
    if interrupts.phase is not Phase.DEAF:
        interrupts.phase = Phase.DEAF
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
