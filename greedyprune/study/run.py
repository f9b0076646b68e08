"""Who searches, or searched last, in a study: told to who finds it held, or comes with other settings."""

import os
import platform
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from greedyprune.errors import UserError
from greedyprune.ranges import Count
from greedyprune.study.typed import Wrong, typed


@dataclass(frozen=True)
class Run:
    """A process that opened a study.

    Attributes:
        command: goes on with the study; may be empty.
        pid: the process.
        host: its machine.
        since: when it opened the study.
    """

    command: str
    pid: Count
    host: str
    since: str

    @classmethod
    def now(cls, command: str) -> "Run":
        """This process."""
        since = datetime.now().astimezone().isoformat(" ", "milliseconds")
        return cls(command, os.getpid(), platform.node(), since)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def is_over(self) -> bool:
        """Whether the process is known to have ended."""
        if sys.platform == "win32" or self.host != platform.node():
            return False
        try:
            os.kill(self.pid, 0)  # signal 0 only asks
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False


def read_run(values: object) -> Run:
    """A run from its stored form.

    Raises:
        Wrong: it is none.
    """
    return typed(Run, values, {}, "run")


def refusal(place: str, stored: object) -> UserError:
    """The refusal of a study that another process holds.

    Args:
        place: the study, for messages.
        stored: the run that the study names; that of an earlier process as long as the holder has not written its own.
    """
    who, stop = "another process", "stop it"
    with suppress(Wrong):
        run = read_run(stored)
        if not run.is_over:
            who, stop = f"process {run.pid} on {run.host} since {run.since}", f"stop it (kill {run.pid} there)"
    return UserError(f"{place} is in use by {who}: wait for its end, {stop}, or start another study with --study NAME")
