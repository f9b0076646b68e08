"""`tools/train.py`: train a detector from scratch, or fine-tune a checkpoint, dense or slim."""

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from greedyprune.classes import ADVICE, same_classes
from greedyprune.cli import (
    DARKNET_FLAGS,
    DEMO_MODEL,
    Parser,
    add_data_arguments,
    add_device_arguments,
    add_model_arguments,
    open_checkpoint,
    open_device,
    open_model,
    opening_options,
)
from greedyprune.commands.datasets import open_dataset
from greedyprune.commands.flags import add_flags, from_flags
from greedyprune.data.cache import demo_data
from greedyprune.data.splits import data_classes
from greedyprune.data.transforms import form_transform
from greedyprune.embedded import checkpoint_path
from greedyprune.entry import again
from greedyprune.errors import UserError
from greedyprune.families import family_of
from greedyprune.files import file_hash
from greedyprune.models import MODELS, ModelInfo, build_model
from greedyprune.models.darknet import DarknetInfo
from greedyprune.models.darknet.checkpoint import NAME as DARKNET
from greedyprune.models.darknet.files import find_layers
from greedyprune.models.darknet.new import new_darknet
from greedyprune.ranges import PIXELS
from greedyprune.report.console import number
from greedyprune.text import file_path, plain_text, printable
from greedyprune.training import Feed, RunOptions, Stopped, Trainer, TrainOptions, Validation, World, open_world
from greedyprune.training.log import TrainLog, duration
from greedyprune.training.pretrained import load_backbone
from greedyprune.training.recipes import recipe_class
from greedyprune.training.state import BEST, LAST, Folder, Position

_MODEL_FLAGS = {field.name: None for kind in MODELS.values() for field in dataclasses.fields(kind.options)}
del _MODEL_FLAGS["num_classes"]
DEMO_IMAGES, DEMO_SIDE = 2000, 160
_NEW_ADVICE = "the classes are those that the training annotations list: list it there, too"
# Shown by the groups that all tools share.
_SHARED = ("batch_size", "amp", "num_workers")


def main(argv: Sequence[str] | None = None) -> int:
    """Train; the same command again goes on where it was."""
    args = _parse(argv)
    options, run = from_flags(TrainOptions, args), from_flags(RunOptions, args)
    device = open_device(args)
    if options.amp == "fp16" and device.type == "cpu":
        raise UserError("--amp fp16 needs a GPU; use --amp bf16 or none on a CPU")
    with ExitStack() as stack:
        world = stack.enter_context(open_world(device))
        args.device = str(world.device)
        if world.main:
            stack.enter_context(Folder(run.output_dir))
        try:
            position = _train(args, options, run, world)
        except Stopped as stopped:
            if not world.main:
                return 130
            words = (
                again() if world.size == 1 else again("torchrun", "--nproc_per_node", os.environ["LOCAL_WORLD_SIZE"])
            )
            command = shlex.join([*words, *(sys.argv[1:] if argv is None else argv)])
            raise KeyboardInterrupt(f"{stopped}; to go on: {command}") from None
        if world.main:
            _report(position, run.output_dir)
    return 0


def _train(args: argparse.Namespace, options: TrainOptions, run: RunOptions, world: World) -> Position:
    data = args
    if args.coco_path is None:
        # The demo's first images are the same, however many there are.
        images = max(options.train_images, DEMO_IMAGES)
        sides = {"short_side": args.short_side or DEMO_SIDE, "long_side": args.long_side or DEMO_SIDE}
        data = argparse.Namespace(**{**vars(args), **sides, "coco_path": demo_data(train_images=images)})
    torch.manual_seed(options.seed)
    model = _from_scratch(data) if args.model else _from_checkpoint(data, run)
    advice = _NEW_ADVICE if args.model or args.new_classes else ADVICE
    family = family_of(model)
    transform = form_transform(family.form(model), options.augment)
    train_data = open_dataset(data, model, "train", transform, advice)
    val_data = open_dataset(data, model, "val", advice=advice)
    feed = Feed(train_data, options, run, world, recipe_class(model).gather)
    settings = {
        "model": args.model or "checkpoint",
        "weights": _fingerprint(args.backbone_weights if args.model else args.resume),
        **({"key": args.key} if args.key else {}),
        **({"teacher": _fingerprint(args.teacher)} if args.teacher else {}),
        **({"new_classes": True} if args.new_classes else {}),
        **({"teacher_key": args.teacher_key} if args.teacher_key else {}),
        **family.settings(model),
        "training data": train_data.fingerprint,
        "training images": feed.images,
        "validation data": val_data.fingerprint,
    }
    key = {"key": args.teacher_key} if args.teacher_key else {}
    teacher = open_checkpoint(args.teacher, key) if args.teacher else None
    validation = Validation(val_data, options, run, world)
    trainer = Trainer(model, feed, validation, options, run, world, settings, teacher)
    position = trainer.position
    if position.finished:
        return position
    if not world.main:
        return trainer.train(None)
    log = TrainLog(run.output_dir, position.step, position.epochs_done, trainer.total, run.tensorboard)
    try:
        doing = "going on" if position.step else "starting"
        place = printable(str(run.output_dir), None)
        log.say(f"{doing} at step {position.step} of {trainer.total}, {feed.images} images, in {place}")
        return trainer.train(log)
    finally:
        log.close()


def _from_scratch(args: argparse.Namespace) -> nn.Module:
    """A new model for the classes of the data."""
    if args.model == DARKNET:
        return _new_darknet(args)
    short_side, long_side = args.short_side or ModelInfo.short_side, args.long_side or ModelInfo.long_side
    classes = data_classes(args.coco_path)
    info = ModelInfo(classes.names, classes.ids, short_side, long_side)
    given = {name: getattr(args, name) for name in _MODEL_FLAGS if getattr(args, name) is not None}
    given["num_classes"] = classes.count
    model = build_model(args.model, args.cfgs, cfgs_name="--cfgs", info=info, **given)
    if args.backbone_weights:
        load_backbone(model, args.backbone_weights)
    elif model.options.backbone != "small":
        print(
            f"warning: {model.options.backbone} starts from random weights, and its first stage stays so; "
            "give --backbone_weights",
            file=sys.stderr,
        )
    return model


def _new_darknet(args: argparse.Namespace) -> nn.Module:
    """A new Darknet detector, of the layers of --cfg."""
    cfg, _ = find_layers(args.cfg, None, None)
    asked = {name: value for name, value in opening_options(args).items() if name not in ("cfg", "names")}
    info = DarknetInfo(**{"norm_epsilon": "pytorch", **asked})
    return new_darknet(cfg, info, data_classes(args.coco_path), args.backbone_weights)


def _from_checkpoint(args: argparse.Namespace, run: RunOptions) -> nn.Module:
    """The model of --resume, with --new_classes for those of the data."""
    if args.resume.resolve().parent == run.output_dir.resolve():
        raise UserError(f"--resume {args.resume} lies in --output_dir, where it may be overwritten; give another one")
    model = open_model(args)
    if not args.new_classes:
        return model
    classes = data_classes(args.coco_path)
    family = family_of(model)
    return family.with_classes(model, classes, same_classes(classes, family.classes(model)))


def _fingerprint(path: Path | None) -> str:
    return "random" if path is None else file_hash(path)


def _report(position: Position, folder: Path) -> None:
    print(f"finished: {position.epochs_done} epochs, {position.step} steps in {duration(position.seconds)}")
    last, best = (printable(str(folder / name), None) for name in (LAST, BEST))
    print(f"last: {last}, AP {number(position.accuracy['AP'])}")
    if position.best_ap is not None:
        print(f"best: {best}, AP {number(position.best_ap)} of epoch {position.best_epoch}")


def _add_model_flags(group: Any) -> None:
    """A flag for every option of any model."""
    defaults = {}
    for option in _MODEL_FLAGS:
        told = {name: getattr(kind.options, option) for name, kind in MODELS.items() if hasattr(kind.options, option)}
        first, *_ = told.values()
        others = [f"{name}: {value}" for name, value in told.items() if value != first]
        defaults[option] = "; ".join([str(first), *others])
    added = {"num_classes"}
    for kind in MODELS.values():
        add_flags(group, kind.options, leave_out=added, unset=True, defaults=defaults)
        added |= {field.name for field in dataclasses.fields(kind.options)}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("Train a detector, or fine-tune one; the same command again goes on where it was.")
    add_model_arguments(parser)
    parser.add_argument_group("other classes").add_argument(
        "--new_classes",
        action="store_true",
        help="fine-tune --resume to the classes of the training data: class heads and label embeddings are made anew, "
        "everything else is kept; a class of the same name (but for case and blanks) starts from what it was",
    )
    group = parser.add_argument_group("a new model", "only with --model; number and names of classes are the data's")
    group.add_argument("--model", choices=(*MODELS, DARKNET), help="train from scratch, instead of --resume")
    group.add_argument(
        "--backbone_weights",
        type=file_path,
        metavar="PATH",
        help="torchvision's weights for a ResNet backbone, or a .weights file of a Darknet detector's first layers",
    )
    group.add_argument(
        "--short_side", type=PIXELS.parse, metavar="PX", help="images' short side (default: 800; demo data: 160)"
    )
    group.add_argument(
        "--long_side", type=PIXELS.parse, metavar="PX", help="images' longest side (default: 1333; demo data: 160)"
    )
    _add_model_flags(group)
    add_data_arguments(parser, TrainOptions.batch_size)
    add_device_arguments(parser)
    group = parser.add_argument_group("training", "--batch_size is of one optimizer step, over all processes")
    group.add_argument(
        "--teacher",
        type=checkpoint_path,
        nargs="?",
        const=DEMO_MODEL,
        metavar="PATH",
        help="the dense detector that a slim one was cut from: its answers are learned beside the labels "
        "(without PATH: the embedded demo detector)",
    )
    group.add_argument(
        "--teacher_key", type=plain_text, metavar="NAME", help="which of the sets of weights in --teacher; see --key"
    )
    add_flags(group, TrainOptions, leave_out=_SHARED)
    add_flags(parser.add_argument_group("run"), RunOptions, leave_out=_SHARED)
    parser.set_defaults(resume=None)
    args = parser.parse_args(argv)
    if args.model and args.resume:
        raise UserError("--model starts from random weights and --resume from a checkpoint; leave one of them out")
    if args.model and args.new_classes:
        raise UserError("--new_classes is for fine-tuning with --resume; a new model has the data's classes anyway")
    if args.model == DARKNET:
        for name in (*_MODEL_FLAGS, "short_side", "long_side", "cfgs", "names"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name} says nothing of a new Darknet detector: its --cfg does; leave it out")
    elif args.model:
        for name in DARKNET_FLAGS:
            if getattr(args, name) is not None:
                raise UserError(f"--{name} says nothing of {args.model}; it is for --model {DARKNET}, leave it out")
    if args.model and args.key is not None:
        raise UserError("--key chooses weights in --resume, and --model starts from random ones; leave one of them out")
    if args.teacher_key is not None and args.teacher is None:
        raise UserError("--teacher_key chooses weights in --teacher, which is not given")
    if not args.model:
        args.resume = args.resume or DEMO_MODEL
        for name in (*_MODEL_FLAGS, "short_side", "long_side", "backbone_weights"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name} is for training from scratch with --model; a checkpoint says it itself")
    return args
