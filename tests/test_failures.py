"""What memory, disks and processes refuse is told in a line that says what to do."""

import errno
import subprocess
import sys

import pytest

from greedyprune.failures import advise, explain, lost_peer


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "out of memory; use a smaller --batch_size"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory; use a smaller --batch_size"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                "to allocate 40000000000 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "out of memory (40,000 MB more were asked for); use a smaller --batch_size",
        ),
        (RuntimeError("std::bad_alloc"), "out of memory; use a smaller --batch_size"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might"), "CUDA error: out of memory; use"),
        (RuntimeError("can't start new thread"), "no more processes or threads can be started; use fewer"),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "no more processes or threads can be started"),
        (OSError(errno.EMFILE, "Too many open files", "x.png"), "too many open files; raise the limit (ulimit -n) or"),
        (RuntimeError("received 0 items of ancdata"), "too many open files; raise the limit"),
        (
            RuntimeError("unable to write to file </torch_7_8_9>: No space left on device (28)"),
            "shared memory is full (/dev/shm); give it more (docker run --shm-size=8g) or use fewer --num_workers",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's"),
            "shared memory is full (/dev/shm)",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "a process that decodes images was killed (signal Killed), perhaps for memory; use fewer --num_workers",
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
            "a process that decodes images ended, perhaps for memory; use fewer --num_workers",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 28. Details are lost due to"),
            "shared memory is full (/dev/shm)",
        ),
        (
            MemoryError("Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback ...\nMemoryError\n"),
            "out of memory; use a smaller --batch_size",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "/out/x"), "disk full: /out/x; free some space on its disk"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "a"), "a link that leads to itself: a"),
    ],
)
def test_a_failure_says_what_is_missing_and_what_to_do(error, line):
    told = explain(error)
    assert told is not None
    assert told.startswith(line)
    assert "\n" not in told


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), ValueError("std::bad_alloc"), OSError(errno.EBADF, "")]
)
def test_a_bug_is_not_explained(error):
    assert explain(error) is None


def test_only_flags_that_the_tool_has_are_advised():
    advise(["--cache_gb", "--help"])
    assert explain(MemoryError()) == "out of memory; use a smaller --cache_gb"
    advise(["--help"])
    assert explain(MemoryError()) == "out of memory"


def test_a_lost_connection_is_another_process_failure():
    assert lost_peer(RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4711"))
    assert not lost_peer(RuntimeError("shapes differ"))


SMALL = """
import importlib, resource, sys
importlib.import_module("greedyprune.commands.bench_search")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
from greedyprune.entry import run_command
run_command("bench_search")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_machine_without_memory_is_a_line():
    command = [sys.executable, "-c", SMALL, "--device", "cpu", "--threads", "1", "--images", "500"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.startswith("error: out of memory")
    assert done.stderr.count("\n") == 1
