"""SIGINT, SIGTERM and SIGHUP as a flag that is read between steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from greedyprune.interrupts import SIGNALS, interrupts


class StopSignals:
    """While it is entered, the first signal sets `raised`; a second one, unless it only repeats it, interrupts."""

    def __init__(self) -> None:
        self.raised = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        interrupts.number = None
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup's stays
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not interrupts.note(number):
            return
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True
