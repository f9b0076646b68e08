"""What the tools' command lines have in common: the parser, and the arguments for models, data and devices."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from greedyprune.embedded import DEMO_MODEL as DEMO_MODEL
from greedyprune.embedded import checkpoint_path, embedded_names
from greedyprune.errors import UserError
from greedyprune.failures import advise
from greedyprune.families import Asked, family_of_file
from greedyprune.models.darknet.options import EPSILONS, ORDERS
from greedyprune.ranges import AMOUNT, BATCH, PROCESSES, PROCESSES_OR_NONE, SHARE
from greedyprune.running import run as run  # of every tool, as what else they have in common
from greedyprune.text import file_path, plain_text

# Flags that say of a checkpoint what it may not say itself; a family names its own (`Family.opening`).
DARKNET_FLAGS = ("cfg", "names", "reorg", "norm_epsilon", "score_threshold", "nms_iou", "per_class_nms")
_OPENING = ("key", "whole_heads", *DARKNET_FLAGS)


class _Formatter(argparse.HelpFormatter):
    """Help that says each option's default, where there is one to say."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is argparse.SUPPRESS or isinstance(action.default, bool)
        if silent or not action.help or "(default:" in action.help:
            return action.help
        return f"{action.help} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations and whose complaints are UserErrors.

    Args:
        description: what the tool does.
    """

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=_Formatter, allow_abbrev=False)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        advise(self._option_string_actions)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """`--resume`, `--key`, `--cfgs`, and what Darknet's files do not say; see `open_model`."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--resume",
        type=checkpoint_path,
        default=DEMO_MODEL,
        metavar="PATH",
        help="checkpoint: of this project, or a published one, or the name of an embedded detector, "
        f"{' or '.join(embedded_names())} (default: the embedded demo detector)",
    )
    group.add_argument(
        "--key",
        type=plain_text,
        metavar="NAME",
        help="which of the sets of weights that a checkpoint of another framework holds, as ema or state_dict.ema "
        "(default: the only one)",
    )
    group.add_argument(
        "--cfgs",
        nargs="+",
        metavar="WIDTHS",
        help="width list that the checkpoint must have, quoted or as several words: "
        "[[[attn, ffn], ...], [[self, cross, ffn], ...]], and [[inner width], ...] of the backbone where it is slim",
    )
    add_darknet_arguments(parser)


def add_darknet_arguments(parser: argparse.ArgumentParser) -> None:
    """What Darknet's `.weights` files do not say, and how its detectors choose among their boxes."""
    group = parser.add_argument_group("a Darknet detector")
    group.add_argument(
        "--cfg",
        type=file_path,
        metavar="PATH",
        help="layers of a .weights file: a .cfg file, or the name of a shipped one, yolov2-voc or tiny-yolo-voc "
        "(default: the file beside it with its name)",
    )
    group.add_argument("--names", type=file_path, metavar="PATH", help="file with a class name in every line")
    group.add_argument(
        "--reorg",
        choices=ORDERS,
        help="order of the channels of reorg layers: Darknet's, or that of pytorch-yolo2 (default: darknet)",
    )
    group.add_argument(
        "--norm_epsilon",
        choices=EPSILONS,
        help="what batch norms divide by: Darknet's sqrt(var) + 1e-6, or PyTorch's sqrt(var + 1e-5) "
        "(default: darknet; of new detectors pytorch)",
    )
    group.add_argument(
        "--score_threshold", type=SHARE.parse, metavar="S", help="detections have a higher score (default: 0.005)"
    )
    group.add_argument(
        "--nms_iou", type=SHARE.parse, metavar="S", help="IoU beyond which a worse box is left out (default: 0.45)"
    )
    group.add_argument(
        "--per_class_nms", action="store_true", default=None, help="boxes of different classes leave each other alone"
    )


def add_data_arguments(parser: argparse.ArgumentParser, batch_size: int = 8) -> None:
    """`--coco_path`, `--batch_size` and `--num_workers`; see `open_dataset` of commands/datasets.py."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--coco_path",
        type=file_path,
        metavar="DIR",
        help="folder with train2017, val2017 and annotations (default: the embedded demo data set)",
    )
    group.add_argument("--batch_size", type=BATCH.parse, default=batch_size, metavar="N", help="images at once")
    group.add_argument(
        "--num_workers",
        type=PROCESSES_OR_NONE.parse,
        default=0,
        metavar="N",
        help="processes that decode images; 0: none",
    )


def add_device_arguments(parser: argparse.ArgumentParser, *, amp: bool = True) -> None:
    """`--device`, `--threads` and, where asked for, `--amp`; see `open_device`."""
    group = parser.add_argument_group("device")
    group.add_argument(
        "--device",
        type=plain_text,
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:N, or auto: a GPU where there is one, else the CPU",
    )
    if amp:
        group.add_argument("--amp", choices=("none", "bf16", "fp16"), default="none", help="mixed precision")
    group.add_argument(
        "--threads", type=PROCESSES.parse, metavar="N", help="CPU threads of PyTorch (default: PyTorch's own choice)"
    )


def add_cache_argument(group: Any, unset: bool = False) -> None:
    """`--cache_gb`, for tools that keep activations of many images; with `unset` None tells that it was not given."""
    group.add_argument(
        "--cache_gb",
        type=AMOUNT.parse,
        default=None if unset else 8.0,
        metavar="X",
        help="memory for what the model makes of the images (default: 8); with less, the same result later",
    )


def open_device(args: argparse.Namespace) -> torch.device:
    """The device of `--device`, with `--threads` set.

    Raises:
        UserError: no such device, or a GPU was asked for and there is none.
    """
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    name, available = args.device, torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if available else "cpu")
    kind, _, index = name.partition(":")
    if name != "cpu" and (kind != "cuda" or (":" in name and not index.isdecimal())):
        raise UserError(f"--device {name} is unknown; choose cpu, cuda, cuda:N or auto")
    if kind == "cuda" and not available:
        raise UserError(f"--device {name}: PyTorch sees no CUDA device here; use --device cpu")
    if kind == "cuda" and int(index or 0) >= available:
        raise UserError(f"--device {name}: the last CUDA device here is cuda:{available - 1}")
    return torch.device("cuda", int(index or 0)) if kind == "cuda" else torch.device("cpu")


def opening_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of the flags that say what a checkpoint may not say itself."""
    found = {name: getattr(args, name, None) for name in _OPENING}
    return {name: value for name, value in found.items() if value is not None and value is not False}


def open_checkpoint(path: Path, options: Mapping[str, Any], cfgs: Any = None) -> nn.Module:
    """The detector of a file, in eval mode on the CPU.

    Args:
        path: the file.
        options: see `Asked`.
        cfgs: the widths that it must have; None: any.

    Raises:
        UserError: the checkpoint cannot be loaded, or has other widths, or an option says nothing of it.
    """
    return family_of_file(path).open(path, Asked(cfgs, options))


def open_model(args: argparse.Namespace) -> nn.Module:
    """The detector of `--resume`, in eval mode on the device of `--device`.

    Args:
        args: parsed arguments of the model and device groups, and `--whole_heads`.

    Raises:
        UserError: see `open_checkpoint`.
    """
    device = open_device(args)
    cfgs = None if args.cfgs is None else " ".join(args.cfgs)
    return open_checkpoint(args.resume, opening_options(args), cfgs).to(device)
