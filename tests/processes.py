"""Tools and scripts in processes of their own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

TOOLS = Path(__file__).parents[1] / "tools"


def hear() -> None:
    """What a shell, or nohup, has the tests ignore ends what they start."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(*words: object, **how) -> "subprocess.Popen[str]":
    """Python with these arguments, in a session of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(command, start_new_session=True, preexec_fn=hear, **{**pipes, **how})


def wait_for_handler(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Until a process catches a signal."""
    while process.poll() is None:
        caught = Path(f"/proc/{process.pid}/status").read_text().split("SigCgt:")[1].split()[0]
        if int(caught, 16) >> (number - 1) & 1:
            return
        time.sleep(0.002)


def children(process: "subprocess.Popen[str]") -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
