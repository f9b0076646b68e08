"""Files that a kill cannot leave half written, and what tells them apart."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """An OSError inside names this file: one of writing has no name, and that of a temporary file says nothing.

    Raises:
        OSError: of the same kind and errno, with the file's name.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Write beside `path`, flush to the disk, then rename over it: a reader sees the old file or the new one.

    Raises:
        OSError: names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with naming(path):
            with temporary.open("xb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:  # which knows the file even if an interrupt comes while it is made
        with contextlib.suppress(OSError):
            temporary.unlink()


def file_hash(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
