"""What every tool's command line has in common: errors, and the arguments for models, data and devices."""

import argparse
import errno
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from greedyprune.data.cache import demo_data
from greedyprune.data.coco import CocoDetection
from greedyprune.data.transforms import eval_transform
from greedyprune.errors import UserError
from greedyprune.models import Detector, load_model

DEMO_MODEL = Path(__file__).parent / "assets" / "shapes_dn_detr.safetensors"
_FILE_ERRORS = {
    errno.ENOSPC: "disk full",
    errno.EFBIG: "file too large for this disk or account",
    errno.EDQUOT: "disk quota exceeded",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "read-only file system",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "not a folder",
    errno.EISDIR: "a folder, not a file",
    errno.EEXIST: "a file of that name is in the way",
    errno.ENAMETOOLONG: "file name too long",
}


def run(main: Callable[[], int]) -> NoReturn:
    """Run a tool and exit: what goes wrong for a reason that the user can see to is one line on stderr.

    Exit codes: what `main` returns; 2 for a UserError, a file or disk that refuses, or a GPU without memory; 130 for
    Ctrl-C.
    """
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        code = _complain(str(error))
    except KeyboardInterrupt as error:
        # A command that can say how to go on raises it with that as its message.
        print(f"\ninterrupted{f': {error}' if str(error) else ''}", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader has gone. What is still buffered would raise again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if error.errno not in _FILE_ERRORS:
            raise
        code = _complain(f"{_FILE_ERRORS[error.errno]}: {error.filename or error.strerror}")
    except torch.cuda.OutOfMemoryError as error:
        needed = str(error).split(". ")[0]
        code = _complain(f"{needed}; use a smaller --batch_size, --amp bf16 or --device cpu")
    sys.exit(code)


def _complain(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


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

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def whole_number(smallest: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least `smallest`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = smallest - 1
        if number < smallest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {smallest}")
        return number

    return parse


def share(text: str) -> float:
    """An argparse type: a number in 0..1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return number


def _gigabytes(text: str) -> float:
    """An argparse type: 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of gigabytes of at least 0")
    return number


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """`--resume` and `--cfgs`; see `open_model`."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--resume",
        type=Path,
        default=DEMO_MODEL,
        metavar="PATH",
        help="checkpoint: of this project, or a published one (default: the embedded demo detector)",
    )
    group.add_argument(
        "--cfgs",
        nargs="+",
        metavar="WIDTHS",
        help="width list that the checkpoint must have, quoted or as several words: "
        "[[[attn, ffn], ...], [[self, cross, ffn], ...]], and [[inner width], ...] of the backbone where it is slim",
    )


def add_data_arguments(parser: argparse.ArgumentParser, batch_size: int = 8) -> None:
    """`--coco_path`, `--batch_size` and `--num_workers`; see `open_dataset`."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--coco_path",
        type=Path,
        metavar="DIR",
        help="folder with train2017, val2017 and annotations (default: the embedded demo data set)",
    )
    group.add_argument("--batch_size", type=whole_number(1), default=batch_size, metavar="N", help="images at once")
    group.add_argument(
        "--num_workers", type=whole_number(0), default=0, metavar="N", help="processes that decode images; 0: none"
    )


def add_device_arguments(parser: argparse.ArgumentParser, *, amp: bool = True) -> None:
    """`--device`, `--threads` and, where asked for, `--amp`; see `open_device`."""
    group = parser.add_argument_group("device")
    group.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:N, or auto: a GPU where there is one, else the CPU"
    )
    if amp:
        group.add_argument("--amp", choices=("none", "bf16", "fp16"), default="none", help="mixed precision")
    group.add_argument(
        "--threads", type=whole_number(1), metavar="N", help="CPU threads of PyTorch (default: PyTorch's own choice)"
    )


def add_cache_argument(group: Any) -> None:
    """`--cache_gb`, for tools that keep what the model makes of many images."""
    group.add_argument(
        "--cache_gb",
        type=_gigabytes,
        default=8.0,
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


def open_model(args: argparse.Namespace) -> Detector:
    """The detector of `--resume`, in eval mode on the device of `--device`.

    Args:
        args: parsed arguments of the model and device groups, and `--whole_heads`.

    Raises:
        UserError: the checkpoint cannot be loaded, or has other widths than `--cfgs`.
    """
    device = open_device(args)
    cfgs = None if args.cfgs is None else " ".join(args.cfgs)
    overrides = {"whole_heads": True} if args.whole_heads else {}
    return load_model(args.resume, cfgs, **overrides).to(device)


def open_dataset(args: argparse.Namespace, model: Detector, split: str, transform: Any = None) -> CocoDetection:
    """The data set of `--coco_path`, its labels numbered as the model's.

    Args:
        args: parsed arguments of the data group.
        model: says which categories its labels are, and how large it wants images.
        split: `train` or `val`.
        transform: None: the evaluation transform at the model's image size.

    Raises:
        UserError: the data cannot be read, or its categories are not the model's.
    """
    root = demo_data() if args.coco_path is None else args.coco_path
    transform = transform or eval_transform(model.info.short_side, model.info.long_side)
    dataset = CocoDetection(root, split, None, transform)
    known = model.info.category_ids or tuple(range(model.options.num_classes))
    check_categories(model, dataset, root)
    if tuple(dataset.category_ids) == tuple(known):
        return dataset
    return CocoDetection(root, split, known, transform)


def check_categories(model: Detector, dataset: CocoDetection, root: Path) -> None:
    """Check that every category of the data is one that the model knows, by id and, where known, by name.

    Raises:
        UserError: names both numbers of classes and the first category that differs.
    """
    info = model.info
    if not info.class_names:
        _tell_unnamed(root, f"{dataset.category_ids[0]} ({dataset.class_names[0]})" if dataset.category_ids else "")
    ids = info.category_ids or tuple(range(model.options.num_classes))
    names = dict(zip(ids, info.class_names, strict=True)) if info.class_names else {}
    for category, name in zip(dataset.category_ids, dataset.class_names, strict=True):
        if category not in ids:
            differs = f"category {category} ({name}) of the data is none of the model's"
        elif names.get(category, name) != name:
            differs = f"category {category} is {name} in the data and {names[category]} in the model"
        else:
            continue
        raise UserError(
            f"the model detects {len(ids)} classes and {root} has {len(dataset.category_ids)}: {differs}; "
            "--resume a checkpoint of this data, or give its data as --coco_path"
        )


@functools.cache
def _tell_unnamed(root: Path, first: str) -> None:
    """Say, once for a data set, that only ids tell whether the classes of model and data are the same."""
    print(
        f"warning: the checkpoint does not name its classes, so that the category ids of {root}, as {first}, are taken "
        "to mean the same to it",
        file=sys.stderr,
    )
