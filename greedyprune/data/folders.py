"""Folders that are written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greedyprune.errors import UserError
from greedyprune.files import naming

SPLITS = ("train", "val")


def annotation_file(folder: Path, split: str) -> Path:
    """Where the annotations of a split are in COCO's layout."""
    return folder / "annotations" / f"instances_{split}2017.json"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes its name when all is done; an error or an interrupt leaves nothing of it.

    Args:
        folder: its place at the end; not there yet, or empty.

    Raises:
        UserError: the folder is not empty.
        OSError: the disk refuses; names the folder.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder that is not there yet, or an empty one")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; give a folder that is not there yet, or an empty one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written beside the folder and renamed to it, so that what an interruption leaves is never taken for a whole set.
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with naming(folder):
            yield unfinished
        umask = os.umask(0)
        os.umask(umask)
        unfinished.chmod(0o777 & ~umask)  # mkdtemp makes folders that only their owner can read
        unfinished.replace(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what killed runs for this folder left beside it; only while none is running."""
    for unfinished in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(unfinished, ignore_errors=True)
