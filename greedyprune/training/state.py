"""Everything a training needs to go on, as one file; and the lock of the folder it lies in."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.files import atomic_write
from greedyprune.tensors import check_finite

if sys.platform != "win32":
    import fcntl

STATE, LAST, BEST, LOG = "state.safetensors", "last.safetensors", "best.safetensors", "log.jsonl"
_METADATA_KEY = "training"


@dataclass
class Position:
    """Where a training is.

    Attributes:
        step: optimizer steps done.
        epochs_done: epochs done, with their evaluation where there is one. The steps beyond them are the position in
            the current epoch; images, augmentation and noise are functions of it and of the seed.
        seconds: time spent in steps, over all runs.
        accuracy: `AP` and the others of the last evaluation.
        best_ap: highest AP so far.
        best_epoch: the epoch, from 1, that had it.
        scaler: state of the fp16 gradient scaler.
        finished: nothing is left to do.
    """

    step: int = 0
    epochs_done: int = 0
    seconds: float = 0.0
    accuracy: dict[str, Any] = field(default_factory=dict)
    best_ap: float | None = None
    best_epoch: int | None = None
    scaler: dict[str, Any] = field(default_factory=dict)
    finished: bool = False


def save_state(
    folder: Path, position: Position, settings: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write the state; a kill leaves the old one or the new one.

    Args:
        folder: where `state.safetensors` goes.
        position: where the training is.
        settings: what a resumed training must have the same (JSON values).
        tensors: `model`, `optimizer` and `ema` -> name -> tensor.

    Raises:
        UserError: a weight is not finite; the old state stays.
    """
    for part, named in tensors.items():
        if part != "optimizer":  # whose averages may overflow and do no harm
            check_finite(folder / STATE, named)
    flat = {
        f"{part}.{name}": value.detach().cpu().contiguous()
        for part, named in tensors.items()
        for name, value in named.items()
    }
    about = {"format": 1, "position": asdict(position), "settings": dict(settings)}
    atomic_write(folder / STATE, safetensors.torch.save(flat, {_METADATA_KEY: json.dumps(about)}))


def read_state(folder: Path) -> tuple[Position, dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """What `save_state` wrote: position, settings and tensors; None where nothing was.

    Raises:
        UserError: the file is not a training's state.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_METADATA_KEY])
            flat = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        position = Position(**about["position"])
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} is broken or not a training's state; move it away, or start anew with another --output_dir"
        ) from None
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        part, name = key.split(".", 1)
        tensors.setdefault(part, {})[name] = value
    return position, about["settings"], tensors


def check_settings(
    stored: Mapping[str, Any], current: Mapping[str, Any], defaults: Mapping[str, Any], folder: Path
) -> None:
    """Check that the training in a folder is the one that is asked for.

    Args:
        stored: settings of the folder's state.
        current: settings that are asked for.
        defaults: of settings that an older version's state may lack.
        folder: to name in errors.

    Raises:
        UserError: names every setting that differs, with both values.
    """
    stored = {**defaults, **stored}
    normal = json.loads(json.dumps(current))  # tuples become lists, as in the file
    differing = [
        f"{name} is {_short(stored.get(name))} there and {_short(normal.get(name))} here"
        for name in {**stored, **normal}
        if stored.get(name) != normal.get(name)
    ]
    if differing:
        raise UserError(
            f"{folder} holds a training with other settings: {'; '.join(differing)}; "
            "give the same ones to go on, or another --output_dir to start anew"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class Folder:
    """A training's output folder, locked against a second training while it is open.

    Args:
        path: made if it does not exist.

    Raises:
        UserError: on entering: it cannot be written to, is in use, or holds checkpoints of something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def __enter__(self) -> "Folder":
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--output_dir {self.path} is not a folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"--output_dir {self.path} cannot be written to: {error.strerror}") from None
        self._take_lock()
        if not (self.path / STATE).exists():
            for name in (LAST, BEST):
                if (self.path / name).exists():
                    raise UserError(
                        f"--output_dir {self.path} holds {name} but no training that could go on; give another one"
                    )
        for name in (STATE, LAST, BEST):
            for leftover in self.path.glob(f".{name}.*"):  # of a write that was killed
                leftover.unlink()
        return self

    def _take_lock(self) -> None:
        if sys.platform == "win32":
            return  # without a lock that ends with its holder, none is better than one that stays behind
        try:
            # Of this process alone: flock's would live on in the workers of a killed training.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip()
            os.close(self._lock)
            raise UserError(
                f"another training (process {holder}) is writing to {self.path}; wait for it, or give another "
                "--output_dir"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)
