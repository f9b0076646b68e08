"""The first and only import of the files in tools/: an interrupt finds its answer before anything else is loaded.

PyTorch and the rest take seconds. Until they are there nothing has to be cleaned up, and an exception would surface in
the middle of someone else's import: a signal ends the process at once, with a line.
"""

import os
import signal


def run_command(name: str, **given: object) -> None:
    """Run a tool and exit; see `running.run`.

    Args:
        name: of a module in `greedyprune.commands`; its `main` is called.
        given: what `main` is called with.
    """
    for kind in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, kind, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # which nohup and a shell's `&` set
            signal.signal(number, _leave)
    from greedyprune.running import start

    start(name, given)


def _leave(number: int, frame: object) -> None:
    try:
        if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one speaks
            os.write(2, b"\ninterrupted\n")
    finally:
        os._exit(128 + number)
