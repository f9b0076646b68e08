"""Processes that torchrun started beside this one: one of them tells what went wrong, the others hold their tongues."""

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

_PATIENCE = 10.0  # seconds in which the process that failed first speaks, before another says that it has gone


@dataclass(frozen=True)
class Peers:
    """The processes of one torchrun on this machine; a process without torchrun is alone.

    Attributes:
        rank: this process; 0 is the first.
        report: where torchrun reads what this process failed of; None: alone.
    """

    rank: int = 0
    report: Path | None = None

    @classmethod
    def of_environment(cls) -> "Peers":
        report = os.environ.get("TORCHELASTIC_ERROR_FILE")
        alone = os.environ.get("WORLD_SIZE", "1") == "1" or not report
        return cls() if alone or report is None else cls(int(os.environ.get("RANK", "0")), Path(report))

    @property
    def told(self) -> bool:
        """Whether one of them has spoken."""
        return self._mark is not None and self._mark.exists()

    def speak(self, line: str) -> bool:
        """Whether this process is the first to fail, and so the one to tell; torchrun's report gets its line, too."""
        if self.report is None or self._mark is None:
            return True
        try:
            self._mark.touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:
            return True
        about = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
        with contextlib.suppress(OSError):
            self.report.write_text(json.dumps({"message": about}))
        return True

    def heard(self) -> bool:
        """Whether one of them speaks; waits for it."""
        until = time.monotonic() + (_PATIENCE if self._mark else 0)
        while not self.told and time.monotonic() < until:
            time.sleep(0.05)
        return self.told

    @property
    def _mark(self) -> Path | None:
        # torchrun gives every process of an attempt a folder of its own, beside those of the others.
        return None if self.report is None else self.report.parent.parent / "greedyprune.told"
