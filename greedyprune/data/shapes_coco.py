"""The `shapes` set on the disk, in COCO's layout."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle
from tqdm import tqdm

from greedyprune.data.folders import SPLITS, annotation_file, new_folder
from greedyprune.data.shapes import CATEGORIES, draw_scene
from greedyprune.errors import UserError
from greedyprune.failures import not_started
from greedyprune.processes import answer, starting
from greedyprune.ranges import IMAGES, PROCESSES, SEED, processors

CHUNK = 25  # images that a worker draws at once

Drawn = tuple[dict[str, Any], list[dict[str, Any]]]


def make_shapes(
    folder: str | Path, train_images: int = 2000, val_images: int = 500, seed: int = 0, workers: int | None = None
) -> Path:
    """Write the set: `train2017`, `val2017` and `annotations`, whole or not at all.

    An image is a function of the seed, its split and its number: more training images leave the first ones and the
    validation images as they are, and the number of workers does not matter.

    Args:
        folder: where; not there yet, or empty.
        train_images: number of training images.
        val_images: number of validation images.
        seed: at least 0.
        workers: processes that draw; None: one for each processor.

    Returns:
        The folder.

    Raises:
        UserError: the folder is not empty, a number is out of its range, or the processes cannot be started.
        OSError: the disk refuses; names the folder.
    """
    workers = processors() if workers is None else workers
    for allowed, value, name in (
        (IMAGES, train_images, "train_images"),
        (IMAGES, val_images, "val_images"),
        (SEED, seed, "seed"),
        (PROCESSES, workers, "workers"),
    ):
        allowed.check(value, name)
    folder = Path(folder).resolve()
    with new_folder(folder) as unfinished:
        _write(unfinished, (train_images, val_images), seed, workers)
    return folder


def _write(folder: Path, images: tuple[int, int], seed: int, workers: int) -> None:
    counts = dict(zip(SPLITS, images, strict=True))
    chunks = [
        (split, range(start, min(start + CHUNK, count)))
        for split, count in counts.items()
        for start in range(0, count, CHUNK)
    ]
    for split in SPLITS:
        (folder / f"{split}2017").mkdir()
    drawn: dict[str, list[Drawn]] = {split: [] for split in SPLITS}
    with _Progress(sum(images)) as progress:
        for (split, numbers), results in zip(chunks, _draw_all(folder, seed, chunks, workers), strict=True):
            drawn[split] += results
            progress.add(len(numbers))
    (folder / "annotations").mkdir()
    for split in SPLITS:
        annotation_file(folder, split).write_text(json.dumps(_annotations(drawn[split])))


def _draw_all(folder: Path, seed: int, chunks: list[tuple[str, range]], workers: int) -> Iterator[list[Drawn]]:
    """The results of the chunks, in their order."""
    draw = partial(_draw_chunk, folder, seed)
    if workers <= 1:
        yield from map(draw, chunks)
        return
    # A forked process need not import the tool that runs anew, nor PyTorch. macOS's libraries do not survive a fork.
    method = "fork" if sys.platform == "linux" else "spawn"
    context = multiprocessing.get_context(method)
    workers = min(workers, len(chunks))
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(os.getpid(),))
    try:
        for future in _submit(pool, draw, chunks, workers):
            yield future.result()
    except BrokenProcessPool:
        raise UserError("a process that draws images was killed, perhaps for memory; use fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(
    pool: ProcessPoolExecutor,
    draw: Callable[[tuple[str, range]], list[Drawn]],
    chunks: list[tuple[str, range]],
    workers: int,
) -> list[Future[list[Drawn]]]:
    try:
        with starting():
            return [pool.submit(draw, chunk) for chunk in chunks]
    except OSError as error:
        raise not_started(error, f"--workers {workers}") from None


def _start_worker(parent: int) -> None:
    answer(signal.SIG_IGN)  # the parent ends them
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Nobody else ends the workers of a parent that was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _draw_chunk(folder: Path, seed: int, chunk: tuple[str, range]) -> list[Drawn]:
    split, numbers = chunk
    return [_draw(folder, seed, split, number) for number in numbers]


def _draw(folder: Path, seed: int, split: str, number: int) -> Drawn:
    image, instances = draw_scene(np.random.default_rng([seed, SPLITS.index(split), number]))
    name = f"{number + 1:012}.png"
    image.save(folder / f"{split}2017" / name, compress_level=1)
    about = {"id": number + 1, "file_name": name, "height": image.height, "width": image.width}
    annotations = []
    for instance in instances:
        code = rle.encode(np.asfortranarray(instance.mask, dtype=np.uint8))
        annotations.append(
            {
                "image_id": number + 1,
                "category_id": instance.category,
                "bbox": [float(v) for v in rle.toBbox(code)],
                "area": float(rle.area(code)),
                "iscrowd": int(instance.crowd),
                "segmentation": {"size": [int(v) for v in code["size"]], "counts": code["counts"].decode()},
            }
        )
    return about, annotations


def _annotations(drawn: list[Drawn]) -> dict[str, Any]:
    annotations = [annotation for _, image in drawn for annotation in image]
    return {
        "info": {"description": "greedyprune shapes"},
        "images": [about for about, _ in drawn],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": key, "name": name, "supercategory": "shape"} for key, name in CATEGORIES.items()],
    }


class _Progress:
    """A bar on stderr; four lines where that is no terminal."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.bar = tqdm(total=total, desc="drawing shapes", unit="image", disable=None, file=sys.stderr, leave=False)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add(self, images: int) -> None:
        before, self.done = self.done, self.done + images
        self.bar.update(images)
        if self.bar.disable and 4 * before // self.total < 4 * self.done // self.total:
            print(f"drawing shapes: {self.done} of {self.total} images", file=sys.stderr, flush=True)
