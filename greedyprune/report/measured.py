"""Files of what a benchmark measured, with the code, the command and the machine that the numbers are of."""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from greedyprune.errors import UserError
from greedyprune.evaluation.evaluate import describe_device
from greedyprune.files import atomic_write

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_PACKAGE = Path(__file__).resolve().parent.parent
_PATIENCE = 30.0  # seconds for git


@dataclass(frozen=True)
class Machine:
    """What a benchmark ran on.

    Attributes:
        cpu: model of the processor.
        device: where the detector ran.
        threads: CPU threads of PyTorch.
        pytorch: its version.
    """

    cpu: str
    device: str
    threads: int
    pytorch: str

    @classmethod
    def here(cls, device: torch.device) -> "Machine":
        """This machine."""
        return cls(_processor(), describe_device(device), torch.get_num_threads(), str(torch.__version__))


@dataclass(frozen=True)
class Circumstances:
    """When, by which code and where a benchmark was run.

    Attributes:
        command: what was typed.
        date: when it began, ISO 8601, UTC.
        commit: of this package's repository; None: it is in none.
        changed: files of the package differ from that commit.
        machine: what it ran on.
    """

    command: str
    date: str
    commit: str | None
    changed: bool
    machine: Machine

    @classmethod
    def now(cls, tool: str, argv: Sequence[str] | None, device: torch.device) -> "Circumstances":
        """Those of a benchmark that begins.

        Args:
            tool: the file in tools/, without its ending.
            argv: its command line; None: that of this process.
            device: where the detector runs.
        """
        words = sys.argv[1:] if argv is None else argv
        commit = _git("rev-parse", "HEAD") if _git("ls-files", "--", ".") else None
        return cls(
            command=shlex.join(["python", f"tools/{tool}.py", *words]),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            commit=commit,
            changed=commit is not None and bool(_git("status", "--porcelain", "--untracked-files=no", "--", ".")),
            machine=Machine.here(device),
        )

    def write(self, path: Path, about: Mapping[str, Any], tables: "Mapping[str, Sequence[DataclassInstance]]") -> None:
        """Write what was measured as JSON: these circumstances, `about`, and `tables` of rows.

        Args:
            path: the file.
            about: what all rows have in common, as JSON values.
            tables: rows of each table by its name; a row's fields are JSON values.

        Raises:
            OSError: names `path`.
        """
        rows = {name: [asdict(row) for row in table] for name, table in tables.items()}
        content = {**asdict(self), "about": dict(about), "tables": rows}
        atomic_write(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def check_output(path: Path | None, flag: str) -> None:
    """Refuse a file that cannot be written at the end, and make its folder.

    Args:
        path: the file; None: there is none.
        flag: that gave it, for the message.

    Raises:
        UserError: it is a folder.
        OSError: its folder cannot be made.
    """
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{flag} {path} is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)


def _git(*words: str) -> str | None:
    """What git says in the package's folder; None: it is not there or refuses."""
    try:
        done = subprocess.run(["git", *words], cwd=_PACKAGE, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    """The model of the processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
