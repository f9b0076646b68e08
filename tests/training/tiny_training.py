"""Trainings of a few steps on a few small images."""

import json
import os
import signal
from pathlib import Path

import safetensors.torch
import torch

from greedyprune import build_model
from greedyprune.data.coco import CocoDetection
from greedyprune.data.transforms import form_transform
from greedyprune.families import family_of
from greedyprune.models import Detector, ModelInfo
from greedyprune.training import Feed, RunOptions, Trainer, TrainOptions, Validation, World
from greedyprune.training.log import TrainLog
from greedyprune.training.recipes import recipe_class
from greedyprune.training.state import LOG

from ..evaluation.tiny_coco import CATEGORIES, write_tiny

IMAGES = 9
ALONE = World(0, 1, torch.device("cpu"))


def write_data(folder: Path) -> Path:
    """Nine training images of 64 x 48 pixels, the last one empty, and four validation images."""
    write_tiny(folder, IMAGES, "train")
    return write_tiny(folder, 4, "val")


def small_model(**options) -> Detector:
    """Always the same weights."""
    torch.manual_seed(0)
    shape = {"hidden_dim": 16, "heads": 2, "enc_layers": 1, "dec_layers": 2, "ffn_dim": 8}
    other = {"num_queries": 9, "backbone": "small", "num_classes": 2}
    of_data = options.get("num_classes", len(CATEGORIES)) == len(CATEGORIES)
    info = ModelInfo(tuple(CATEGORIES.values()) if of_data else (), tuple(CATEGORIES) if of_data else (), 48, 64)
    return build_model("dn_detr", info=info, **{**shape, **other, **options})


def make_trainer(
    data: Path,
    folder: Path,
    *,
    model: Detector | None = None,
    teacher: Detector | None = None,
    world: World = ALONE,
    run=None,
    **options,
):
    """A trainer of `small_model`; `run` are options of the run, the others those of the training."""
    folder.mkdir(exist_ok=True)
    chosen = TrainOptions(**{"epochs": 2, "batch_size": 4, "augment": "none", "eval_every": 0, **options})
    running = RunOptions(folder, **(run or {}))
    model = model or small_model()
    form = family_of(model).form(model)
    transform = form_transform(form, chosen.augment)
    feed = Feed(
        CocoDetection(data, "train", tuple(CATEGORIES), transform), chosen, running, world, recipe_class(model).gather
    )
    val_data = CocoDetection(data, "val", tuple(CATEGORIES), form_transform(form))
    return Trainer(model, feed, Validation(val_data, chosen, running, world), chosen, running, world, {}, teacher)


def train(trainer: Trainer) -> list[dict]:
    """Train to the end; the records of the log."""
    position = trainer.position
    log = TrainLog(trainer.run.output_dir, position.step, position.epochs_done, trainer.total)
    try:
        trainer.train(log)
    finally:
        log.close()
    return read_log(trainer.run.output_dir)


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def losses(records: list[dict]) -> list[float]:
    return [record["loss"] for record in records if "loss" in record]


def farthest(one: Path, other: Path) -> float:
    """The largest difference between the tensors of two files, over the largest tensor entry."""
    a, b = (safetensors.torch.load_file(path) for path in (one, other))
    assert a.keys() == b.keys()
    return max(float((a[key].double() - b[key].double()).abs().max()) for key in a if a[key].numel())


def signal_after(trainer: Trainer, steps: int) -> None:
    """Ctrl-C arrives while the trainer is in its `steps`-th step from now."""
    step, done = trainer._step, []

    def counted(parts, num_boxes):
        step(parts, num_boxes)
        done.append(None)
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGINT)

    trainer._step = counted
