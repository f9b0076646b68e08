"""How tools end: by signals at any moment, with standard streams that are closed or full."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from greedyprune.interrupts import interrupts

from .processes import TOOLS, start, wait_for_handler

NAMES = sorted(path.stem for path in TOOLS.glob("*.py"))
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DELAYS = (0.0, 0.05, 0.2, 0.5, 0.9, 1.3, 1.7, 2.1, 2.5, 3.0)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
@pytest.mark.parametrize(
    ("index", "name"),
    [pytest.param(index, name, marks=() if name == "eval" else pytest.mark.slow) for index, name in enumerate(NAMES)],
)
def test_a_signal_ends_a_tool_with_a_line_while_its_libraries_are_loaded(index, name, tmp_path):
    for number in (SIGNALS[index % 3], SIGNALS[(index + 1) % 3]):
        process = start(TOOLS / f"{name}.py", *(["shapes"] if name == "make_shapes" else []), cwd=tmp_path)
        wait_for_handler(process, signal.SIGTERM)
        time.sleep(DELAYS[(index + number) % len(DELAYS)] / 2)
        os.killpg(process.pid, number)
        _, printed = process.communicate(timeout=60)
        if "required" not in printed:  # a tool without its arguments may have ended before
            assert (process.returncode, printed) == (128 + number, "\ninterrupted\n")
        assert not list(tmp_path.glob(".*"))


WORKING = """
import sys, tempfile, time
from greedyprune.running import run
def main():
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(folder, flush=True)
            time.sleep(60)
        finally:
            print("cleaning up", flush=True)
            time.sleep(0.5)
run(main)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_to_a_working_tool_removes_its_files_and_a_second_one_disturbs_nothing(number):
    process = start("-c", WORKING)
    folder = process.stdout.readline().strip()
    process.send_signal(number)
    assert process.stdout.readline() == "cleaning up\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert (process.returncode, printed) == (128 + number, "\ninterrupted\n")
    assert not os.path.exists(folder)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_is_ignored_stays_so(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with interrupts.heard():
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_handlers_are_the_callers_again_after_a_run():
    before = [signal.getsignal(number) for number in SIGNALS]
    with interrupts.heard():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_an_interrupt_in_a_finalizer_is_not_lost():
    script = """
import os, signal, time
from greedyprune.running import run
class Late:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
def main():
    late = Late()
    del late
    time.sleep(60)
run(main)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted\n")


SPEAKING = """
from greedyprune.running import run
from greedyprune.errors import UserError
def main():
    file = open({file!r}, "w")
    print("a result")
    if {fails}:
        raise UserError("wrong")
    return 0
run(main)
"""


def shell(tmp_path, redirection, fails=False):
    """A tool that opens a file, prints and perhaps fails, its streams redirected by a shell."""
    script = SPEAKING.format(file=str(tmp_path / "file"), fails=fails)
    command = ["sh", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done, (tmp_path / "file").read_text()


def test_a_closed_stdout_leads_nowhere(tmp_path):
    done, file = shell(tmp_path, ">&-")
    assert (done.returncode, done.stdout, done.stderr, file) == (0, "", "", "")


def test_a_closed_stderr_sends_the_error_neither_to_stdout_nor_to_a_file(tmp_path):
    done, file = shell(tmp_path, "2>&-", fails=True)
    assert (done.returncode, done.stdout, done.stderr, file) == (2, "a result\n", "", "")


def test_all_streams_may_be_closed(tmp_path):
    done, file = shell(tmp_path, "<&- >&- 2>&-", fails=True)
    assert (done.returncode, done.stdout, done.stderr, file) == (2, "", "", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_stdout_is_named(tmp_path):
    done, _ = shell(tmp_path, ">/dev/full")
    assert done.returncode == 2
    assert done.stderr == "error: disk full: stdout; free some space on its disk, or write to another one\n"
    done, _ = shell(tmp_path, "2>/dev/full", fails=True)
    assert (done.returncode, done.stdout) == (2, "a result\n")


@pytest.mark.slow
@linux
@pytest.mark.parametrize("name", ["eval"])
def test_a_tool_with_closed_streams_keeps_its_exit_code(name, tmp_path):
    for redirection in ("2>&-", ">&-"):
        command = [
            "sh",
            "-c",
            f'exec "$0" "$1" --resume nowhere.pth {redirection}',
            sys.executable,
            TOOLS / f"{name}.py",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert ("nowhere.pth does not exist" in done.stderr) == (redirection == ">&-")


def test_text_that_an_encoding_cannot_say_is_escaped():
    script = "from greedyprune.running import run; run(lambda: print('caf\\u00e9 \\udce9') or 0)"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "caf\\xe9 \\udce9\n", "")


@pytest.mark.slow
def test_help_for_a_reader_that_has_gone_is_no_error():
    process = start(TOOLS / "make_shapes.py", "--help")
    process.stdout.close()
    with contextlib.closing(process.stderr):
        assert process.stderr.read() == ""
    assert process.wait(timeout=60) in (0, 1)
