"""How every tool runs and ends: standard streams, failures in a line, exit codes."""

import contextlib
import importlib
import io
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from greedyprune.errors import UserError
from greedyprune.failures import explain, lost_peer
from greedyprune.files import naming
from greedyprune.interrupts import interrupts
from greedyprune.peers import Peers
from greedyprune.processes import end_children
from greedyprune.text import printable

_STREAMS = ("stdout", "stderr")
_PATIENCE = 5.0  # seconds that a tool which failed is given to leave


def start(name: str, given: Mapping[str, Any]) -> NoReturn:
    """Load a command, run it and exit; see `entry.run_command`."""

    def main() -> int:
        command = importlib.import_module(f"greedyprune.commands.{name}")
        interrupts.listen()
        return command.main(**given)

    _open_streams()
    try:
        _finish(main)
    except SystemExit as end:
        if end.code:
            # What was interrupted in the middle may hold a lock that Python's own end waits for.
            late = threading.Timer(_PATIENCE, os._exit, (end.code,))
            late.daemon = True
            with contextlib.suppress(RuntimeError):  # no memory for a thread
                late.start()
        raise
    finally:
        end_children()


def run(main: Callable[[], int]) -> NoReturn:
    """Run a tool and exit: what goes wrong for a reason that the user can see to is one line on stderr.

    Exit codes: what `main` returns; 2 for a UserError, a file or disk that refuses, too little memory, or a process
    that was killed; 128 + the signal for SIGINT (Ctrl-C: 130), SIGTERM and SIGHUP; 1, and nothing said, where the
    reader of stdout has gone. Under torchrun one process speaks for all.
    """
    _open_streams()
    with interrupts.heard():
        _finish(main)


def _finish(main: Callable[[], int]) -> NoReturn:
    code = _attempt(main)
    for stream in (sys.stdout, sys.stderr):
        if not _flushed(stream):  # Python would try once more, and complain
            with contextlib.suppress(OSError):
                _lead_nowhere(stream.fileno())
    sys.exit(code)


def _attempt(main: Callable[[], int]) -> int:
    """The exit code."""
    try:
        code = main()
        sys.stdout.flush()
        return code
    except BaseException as error:
        interrupts.end()
        return _outcome(error)
    finally:
        interrupts.end()


def _outcome(error: BaseException) -> int:
    """Tell what ended a tool, where somebody should hear it.

    Returns:
        The exit code.

    Raises:
        BaseException: the error itself, where it is a bug, which keeps its traceback.
    """
    peers = Peers.of_environment()
    if isinstance(error, SystemExit):
        if isinstance(error.code, str):
            _say(error.code)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        # A command that can say how to go on raises it with that as its message.
        if peers.rank == 0 and not peers.told:
            _say(f"\ninterrupted{f': {error}' if str(error) else ''}")
        return interrupts.exit_code
    if isinstance(error, BrokenPipeError) and error.filename in _STREAMS:
        return 1
    if peers.report and lost_peer(error):
        if not peers.heard():
            _say("error: the connection to another process of this training was lost; see its output")
        return 2
    line = str(error) if isinstance(error, UserError) else explain(error)
    if not peers.speak(line or repr(error)):
        return 2
    if line is None:
        raise error
    _say(f"error: {printable(' '.join(line.split()), None)}")
    return 2


def _say(text: str) -> None:
    """On stderr, if it can still be written."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class _Output(io.TextIOWrapper):
    """A standard stream whose failures name it: a full disk is told by its file, and a reader may leave.

    Args:
        descriptor: 1 or 2.
        like: the stream that it replaces; None: there is none.
    """

    def __init__(self, descriptor: int, like: io.TextIOWrapper | None) -> None:
        file: Any = io.FileIO(descriptor, "w", closefd=False)
        at_once = like is not None and like.write_through  # python -u, as torchrun calls it
        super().__init__(
            file if at_once else io.BufferedWriter(file),
            like.encoding if like else "utf-8",
            "backslashreplace",
            line_buffering=like is not None and like.line_buffering,
            write_through=at_once,
        )

    def write(self, text: str) -> int:
        with naming(_STREAMS[self.fileno() - 1]):
            return super().write(text)

    def flush(self) -> None:
        with naming(_STREAMS[self.fileno() - 1]):
            super().flush()


def _open_streams() -> None:
    """Standard streams that can be used.

    One that is closed (`>&-`) leads nowhere from now on: its descriptor would become that of the next file that is
    opened, which would then take what is meant for people. What an encoding cannot say is escaped.
    """
    for descriptor, name in enumerate(("stdin", *_STREAMS)):
        stream = getattr(sys, name)
        if stream is None:
            with contextlib.suppress(OSError):
                _lead_nowhere(descriptor)
        if descriptor and stream is getattr(sys, f"__{name}__"):  # not a caller's own
            setattr(sys, name, _Output(descriptor, stream))


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    if nowhere != descriptor:
        os.close(nowhere)


def _flushed(stream: Any) -> bool:
    try:
        stream.flush()
    except OSError:
        return False
    return True
