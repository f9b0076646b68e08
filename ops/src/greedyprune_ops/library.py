"""Loading a library and handing tensors to it."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

# PyTorch comes first: the CPU library then shares its OpenMP threads instead of bringing a second set.
from torch import Tensor

from greedyprune_ops import INTERFACE, Unavailable, build_notes

INT64 = ctypes.POINTER(ctypes.c_int64)


def load(name: str) -> ctypes.CDLL:
    """The library `name` beside this file.

    Raises:
        Unavailable: not built, not loadable, or of another interface.
    """
    path = Path(__file__).parent / f"libgreedyprune_{name}.so"
    if not path.is_file():
        raise Unavailable(build_notes().get(name, {}).get("missing", "not built: run pip install ./ops"))
    try:
        library = ctypes.CDLL(str(path))
        found = library.greedyprune_interface()
    except (OSError, AttributeError) as error:
        raise Unavailable(f"{path} cannot be loaded ({' '.join(str(error).split())}): build it again") from error
    if found != INTERFACE:
        raise Unavailable(f"{path} has interface {found}, not {INTERFACE}: build it again")
    return library


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def sizes(value: Tensor, locations: Tensor) -> ctypes.Array[ctypes.c_int64]:
    """[batch, tokens, heads, channels, queries, levels, points]"""
    return numbers((*value.shape, locations.shape[1], locations.shape[3], locations.shape[4]))


def numbers(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)
