"""What memory, disks and other processes may refuse, told in a line: what is missing, and what to do."""

import errno
import re
from collections.abc import Collection, Iterable

from greedyprune.errors import UserError

_FULL = "free some space on its disk, or write to another one"
# errno -> what is wrong with the file, and what to do where the name alone does not say it.
_FILE_ERRORS = {
    errno.ENOSPC: ("disk full", _FULL),
    errno.EDQUOT: ("disk quota exceeded", _FULL),
    errno.EFBIG: ("file too large for this disk or account", "write to another disk, or raise the limit (ulimit -f)"),
    errno.EACCES: ("no permission", ""),
    errno.EPERM: ("no permission", ""),
    errno.EROFS: ("read-only file system", ""),
    errno.ENOENT: ("no such file or folder", ""),
    errno.ENOTDIR: ("not a folder", ""),
    errno.EISDIR: ("a folder, not a file", ""),
    errno.EEXIST: ("a file of that name is in the way", ""),
    errno.ENAMETOOLONG: ("file name too long", ""),
    errno.ELOOP: ("a link that leads to itself", ""),
    errno.EIO: ("the disk does not answer", "see the system's log"),
    errno.ESTALE: ("the network disk has gone", "mount it again"),
}
# What a tool may be told to do with less, by the flag that says it.
_LESS_MEMORY = {
    "--batch_size": "a smaller --batch_size",
    "--num_workers": "fewer --num_workers",
    "--workers": "fewer --workers",
    "--cache_gb": "a smaller --cache_gb",
}
_FEWER_PROCESSES = {flag: _LESS_MEMORY[flag] for flag in ("--num_workers", "--workers")}
_LESS_GPU_MEMORY = {
    "--batch_size": _LESS_MEMORY["--batch_size"],
    "--amp": "--amp bf16",
    "--device": "--device cpu",
}
_GPU_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_MEMORY = ("can't allocate memory", "Cannot allocate memory", "std::bad_alloc", "not enough memory")
_OPEN_FILES = ("Too many open files", "items of ancdata")
_SHARED_MEMORY = ("unable to write to file </", "unable to allocate shared memory", "Bus error", "insufficient shared")
_PROCESSES = ("can't start new thread", "Resource temporarily unavailable")
_PEER = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "TCPStore")
_PEER_ERRORS = ("DistBackendError", "DistNetworkError", "DistStoreError")

_flags: set[str] = set()


def advise(flags: Collection[str]) -> None:
    """From now on only flags of this tool are advised; before, and in Python, every one that helps."""
    _flags.clear()
    _flags.update(flags)


def explain(error: BaseException) -> str | None:
    """One line about a failure that the user can do something about; None: it is a bug, or anything else."""
    if not isinstance(error, (OSError, MemoryError, RuntimeError)):
        return None
    text, number = str(error), error.errno if isinstance(error, OSError) else None
    if "DataLoader worker process" in text:  # the worker's traceback, whose last line is what it raised
        text = text.strip().splitlines()[-1]
    worker = re.search(r"DataLoader worker \(pid.*\) .*?(?:signal: ([^.]+)|exit code (\d+)|$)", text, re.DOTALL)
    if worker and worker[2]:
        number = int(worker[2])  # `start_worker` sees to it that this is an errno
    if _has(text, _GPU_MEMORY):
        return _with_advice(text.strip().split(". ")[0].splitlines()[0], _LESS_GPU_MEMORY)
    if number in (errno.EMFILE, errno.ENFILE) or _has(text, _OPEN_FILES):
        return _with_advice("too many open files; raise the limit (ulimit -n)", _FEWER_PROCESSES, " or ")
    if _has(text, _SHARED_MEMORY) or (worker and number == errno.ENOSPC):
        full = "shared memory is full (/dev/shm); give it more (docker run --shm-size=8g)"
        return _with_advice(full, {**_FEWER_PROCESSES, "--batch_size": _LESS_MEMORY["--batch_size"]}, " or ")
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _has(text, _MEMORY):
        return _with_advice(f"out of memory{_wanted(text)}", _LESS_MEMORY)
    if worker:
        ended = f"was killed (signal {worker[1]})" if worker[1] else "ended"
        fewer = {"--num_workers": "fewer --num_workers (with 0 its own failure is shown)"}
        return _with_advice(f"a process that decodes images {ended}, perhaps for memory", fewer)
    if number == errno.EAGAIN or _has(text, _PROCESSES):
        return _with_advice("no more processes or threads can be started", _FEWER_PROCESSES)
    if isinstance(error, OSError) and number in _FILE_ERRORS:
        what, remedy = _FILE_ERRORS[number]
        name = error.filename or error.strerror
        return f"{what}: {name}{'; ' if remedy else ''}{remedy}"
    return None


def lost_peer(error: BaseException) -> bool:
    """Whether another process of the same training has gone, whose own failure is the one to tell."""
    named = any(kind.__name__ in _PEER_ERRORS for kind in type(error).__mro__)
    return named or (type(error) is RuntimeError and _has(str(error), _PEER))


def not_started(error: OSError | RuntimeError, flag: str) -> UserError:
    """What to raise where processes could not be started.

    Args:
        error: what came instead.
        flag: that asks for them, with its value.
    """
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return UserError(f"{flag}: the processes cannot be started: {reason}; use fewer, or check ulimit -a and /dev/shm")


def _has(text: str, marks: Iterable[str]) -> bool:
    return any(mark in text for mark in marks)


def _wanted(text: str) -> str:
    """The size of an allocation that failed, where the message says it."""
    size = re.search(r"allocate (\d+) bytes", text)
    return f" ({int(size[1]) / 1e6:,.0f} MB more were asked for)" if size else ""


def _with_advice(what: str, advice: dict[str, str], joint: str = "; ") -> str:
    """A failure, and those pieces of advice that the tool has flags for."""
    given = [text for flag, text in advice.items() if not _flags or flag in _flags]
    if not given:
        return what
    *others, last = given
    return f"{what}{joint}use {', '.join(others)}{' or ' if others else ''}{last}"
