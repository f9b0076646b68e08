"""Compiled kernels of multi-scale deformable attention, for `greedyprune.ops`.

The libraries beside this file are plain C functions over pointers and know nothing of PyTorch's C++ interface: another
version of PyTorch does not break them. `cpu` and `cuda` call them on tensors; nothing is loaded before it is called.
"""

import functools
import json
from pathlib import Path
from typing import Any

# What `greedyprune.ops` expects of this package; it goes on without a package of another number.
INTERFACE = 1

__version__ = "0.1.0"


class Unavailable(Exception):
    """A library that cannot be used here; its message is one line that says why."""


@functools.cache
def build_notes() -> dict[str, Any]:
    """What was built, with what, and why not; empty where the package was never built."""
    path = Path(__file__).parent / "build.json"
    return json.loads(path.read_text()) if path.is_file() else {}
