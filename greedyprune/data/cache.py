"""The embedded data set, made the first time it is needed."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from greedyprune.data.folders import remove_unfinished
from greedyprune.data.shapes import VERSION
from greedyprune.data.shapes_coco import make_shapes
from greedyprune.errors import UserError

if sys.platform != "win32":
    import fcntl


def cache_dir() -> Path:
    """Where data made by the tools is kept: `GREEDYPRUNE_CACHE`, or `~/.cache/greedyprune`."""
    return Path(os.environ.get("GREEDYPRUNE_CACHE") or "~/.cache/greedyprune").expanduser()


def demo_data(train_images: int = 2000, val_images: int = 500) -> Path:
    """The `shapes` set of seed 0 in the cache; drawn the first time, with progress on stderr.

    Several processes may ask at once: one draws, the others wait for it.

    Args:
        train_images: number of training images. The first ones and the validation images are the same for any number.
        val_images: number of validation images.

    Returns:
        A folder in COCO's layout.

    Raises:
        UserError: the cache cannot be written to.
    """
    folder = cache_dir() / f"shapes-v{VERSION}-{train_images}-{val_images}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            if not folder.is_dir():
                remove_unfinished(folder)
                print(f"making the embedded data set in {folder}", file=sys.stderr)
                make_shapes(folder, train_images, val_images)
    except OSError as error:
        raise UserError(
            f"the embedded data set cannot be made in {folder.parent}: {error.strerror}; "
            "set GREEDYPRUNE_CACHE to a folder with room, or give data of your own as --coco_path"
        ) from None
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the system frees the lock when a process ends, however it ends."""
    with path.open("w") as file:
        if sys.platform != "win32":
            fcntl.lockf(file, fcntl.LOCK_EX)  # which, unlike flock, the workers do not inherit
        yield
