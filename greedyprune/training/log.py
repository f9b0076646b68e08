"""A training's log: JSON lines in its folder, progress for people, and TensorBoard where it is wanted."""

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from greedyprune.errors import UserError
from greedyprune.files import atomic_write, naming
from greedyprune.report.console import number
from greedyprune.training.state import LOG

# Seconds between lines of progress where there is no terminal for a bar.
LINE_INTERVAL = 30.0


class TrainLog:
    """Appends records to `log.jsonl`, and shows them.

    Args:
        folder: the training's folder.
        step: steps done; what the log has beyond them is dropped, as it will be done again.
        epochs_done: the same for the records of epochs.
        total: steps of the whole training.
        tensorboard: write TensorBoard events, too.

    Raises:
        UserError: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, step: int, epochs_done: int, total: int, tensorboard: bool = False) -> None:
        if tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise UserError("--tensorboard needs TensorBoard: pip install tensorboard")
        self._path = folder / LOG
        if self._path.exists():
            _trim(self._path, step, epochs_done)
        self._file = self._path.open("a", encoding="utf-8")
        self._events: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._total, self._started, self._first, self._lined = total, time.monotonic(), step, time.monotonic()
        visible = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=step, unit="step", file=sys.stderr, disable=not visible, dynamic_ncols=True
        )
        self._plain = not visible

    def step(self, record: dict[str, Any]) -> None:
        """A record of training steps: needs `step`, `epoch`, `loss`, `lr` and `images_per_s`."""
        self._write(record)
        self._bar.set_postfix_str(
            f"loss {record['loss']:.3f}, lr {record['lr']:.1e}, {record['images_per_s']:.0f} img/s"
        )
        now = time.monotonic()
        if self._plain and now - self._lined >= LINE_INTERVAL:
            self._lined = now
            left = (self._total - record["step"]) * (now - self._started) / max(1, record["step"] - self._first)
            self.say(
                f"step {record['step']}/{self._total} epoch {record['epoch']} loss {record['loss']:.3f} "
                f"lr {record['lr']:.1e} {record['images_per_s']:.0f} img/s, {duration(left)} left"
            )

    def epoch(self, record: dict[str, Any]) -> None:
        """A record of an epoch: needs `step` and `epoch`; `AP` where it was evaluated."""
        self._write({"kind": "epoch", **record})
        accuracy = f", AP {number(record['AP'])} AP50 {number(record['AP50'])}" if "AP" in record else ""
        self.say(f"epoch {record['epoch']} done at step {record['step']}{accuracy}")

    def advance(self, steps: int = 1) -> None:
        """Move the bar."""
        self._bar.update(steps)

    def say(self, line: str) -> None:
        """A line for people, on stderr."""
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        if self._events is not None:
            self._events.close()

    def _write(self, record: dict[str, Any]) -> None:
        with naming(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        if self._events is not None:
            for name, value in record.items():
                if name not in ("step", "epoch") and isinstance(value, (int, float)):
                    self._events.add_scalar(name, value, record["step"])


def _trim(path: Path, step: int, epochs_done: int) -> None:
    """Keep the records that a training at this position has written, and whole lines only."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            past = record["epoch"] <= epochs_done if record.get("kind") == "epoch" else record["step"] <= step
        except (ValueError, KeyError, TypeError):
            continue
        if past:
            kept.append(line + "\n")
    atomic_write(path, "".join(kept))


def duration(seconds: float) -> str:
    """`3 h 05 min`, `12 min` or `40 s`."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{round(seconds)} s"
