"""The first and only import of the files in tools/ and of the `greedyprune` command.

An interrupt finds its answer before anything else is loaded: PyTorch and the rest take seconds. Until they are there
nothing has to be cleaned up, and an exception would surface in the middle of someone else's import: a signal ends the
process at once, with a line.
"""

import os
import signal
import sys

PROGRAM = "greedyprune"
# Subcommand -> its module in `greedyprune.commands`, and what it does.
COMMANDS = {
    "prune": ("prune", "search the smallest widths that hold the AP you ask for"),
    "transplant": ("transplant", "a slim checkpoint from a search, any of its trials, or widths"),
    "train": ("train", "fine-tune, with a teacher if you like, or train from scratch"),
    "save": ("save", "write a checkpoint anew, one of many zeros in few bytes"),
    "eval": ("eval", "COCO numbers, parameters, multiply-adds, latency, pictures"),
    "study": ("study", "methods of pruning compared, in tables, plots and a page"),
    "import-hf": ("import_hf", "a HuggingFace DAB-DETR or Deformable DETR as a checkpoint"),
    "convert": ("convert", "KITTI, Pascal VOC or YOLO data to COCO's layout, or back"),
    "shapes": ("make_shapes", "write the synthetic data set, of any size"),
    "pretrain": ("pretrain_backbone", "a head start for a backbone without ImageNet weights"),
    "ops": ("ops", "which implementation of deformable attention runs, and why"),
}


def run_command(name: str, **given: object) -> None:
    """Run a tool and exit; see `running.run`.

    Args:
        name: of a module in `greedyprune.commands`; its `main` is called.
        given: what `main` is called with.
    """
    _listen()
    from greedyprune.running import start

    start(name, given)


def main() -> None:
    """The `greedyprune` command: run a subcommand and exit."""
    _listen()
    name, *words = sys.argv[1:] or [""]
    if name in COMMANDS:
        sys.argv = [f"{PROGRAM} {name}", *words]
        run_command(COMMANDS[name][0])
    from greedyprune.running import run

    run(lambda: _told(name))


def again(*starter: str) -> list[str]:
    """The words that run this program again, without its arguments.

    Args:
        starter: what starts it in place of Python alone, such as torchrun.
    """
    command = _subcommand()
    if command is None:
        return [*(starter or ("python",)), *sys.argv[:1]]
    return [*starter, *(["--no-python"] if starter else []), PROGRAM, command]


def tool(name: str) -> str:
    """How another tool is called, the way that this one was."""
    return f"python tools/{name}.py" if _subcommand() is None else f"{PROGRAM} {name}"


def _subcommand() -> str | None:
    """The subcommand that runs; None: it is a file of tools/."""
    program, _, command = sys.argv[0].partition(" ")
    return command if program == PROGRAM and command in COMMANDS else None


def _told(name: str) -> int:
    from greedyprune.errors import UserError
    from greedyprune.ranges import shown
    from greedyprune.version import __version__

    if name in ("-h", "--help"):
        print(f"usage: {PROGRAM} COMMAND [OPTIONS]\n\nPrune a trained object detector to a smaller one.\n\ncommands:")
        for command, (_, text) in COMMANDS.items():
            print(f"  {command:11}{text}")
        print(f"\n{PROGRAM} COMMAND --help tells its options; {PROGRAM} --version the version.")
        return 0
    if name == "--version":
        print(f"{PROGRAM} {__version__}")
        return 0
    wrong = f"there is no command {shown(name)}" if name else "no command was given"
    raise UserError(f"{wrong}; choose one of {', '.join(COMMANDS)} (see {PROGRAM} --help)")


def _listen() -> None:
    """From now on a signal ends the process."""
    for kind in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, kind, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # which nohup and a shell's `&` set
            signal.signal(number, _leave)


def _leave(number: int, frame: object) -> None:
    try:
        os.write(2, b"\ninterrupted\n")
    finally:
        os._exit(128 + number)
