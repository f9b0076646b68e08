"""Files of `torch.save`, read without running code from them.

Published checkpoints keep the training arguments beside the weights, and with them whatever type these had: a
Namespace, NumPy numbers, paths. PyTorch's weights-only reader refuses what is not on its list. The list here is made of
stand-ins wherever the real type does more than hold data, so that nothing of NumPy or pathlib is called with arguments
that a file chose.
"""

import argparse
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from greedyprune.errors import UserError
from greedyprune.models.importing.pickle_bounds import check_file
from greedyprune.models.importing.pickle_calls import PATHS, unsafe


class _NumpyType:
    """A NumPy dtype as a pickle describes it."""

    def __init__(self, name: str = "V", *flags: Any) -> None:
        self.name, self.order = name, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Inert:
    """What nobody reads: a range, or an array, such as random number generators keep their state in."""

    def __init__(self, *details: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _numpy_scalar(kind: _NumpyType, data: bytes) -> Any:
    return np.frombuffer(data, np.dtype(kind.order + kind.name))[0].item()  # refuses kinds that hold objects


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")  # how protocol 2 spells bytes


def _path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _called(path: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of its own under the name by which a pickle asks for it; torch 2.4 and 2.5 take no (object, name)."""

    def stand_in(*arguments: Any) -> Any:
        return function(*arguments)

    return _named(path, stand_in)


def _named(path: str, thing: Any) -> Any:
    thing.__module__, thing.__name__ = path.rsplit(".", 1)
    thing.__qualname__ = thing.__name__
    return thing


_SAFE: list[Any] = [
    argparse.Namespace,
    _named("numpy.dtype", _NumpyType),
    _named("numpy.ndarray", _Inert),
    _called("_codecs.encode", _latin1),
]
# Files name these by the module path of the Python or NumPy that wrote them.
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _SAFE += [_called(f"{_module}.scalar", _numpy_scalar), _called(f"{_module}._reconstruct", _Inert)]
_SAFE += [_called(_path_name, _path) for _path_name in PATHS]
_SAFE += [_called(f"builtins.{_kind.__name__}", _kind) for _kind in (set, frozenset, complex)]
_SAFE += [_called(f"builtins.{_name}", _Inert) for _name in ("range", "slice")]


@contextmanager
def _only_safe(foreign: Iterable[str]) -> Iterator[None]:
    """PyTorch's reader with exactly this list beside its own; what a caller had added comes back after.

    Args:
        foreign: paths of classes and functions whose objects and results nobody reads.
    """
    serialization = torch.serialization
    before = list(serialization.get_safe_globals())
    safe = _SAFE + [_named(path, type("_Foreign", (_Inert,), {})) for path in foreign]
    serialization.clear_safe_globals()
    serialization.add_safe_globals(safe)
    try:
        yield
    finally:
        # Modules of PyTorch that were first imported meanwhile have added their own types.
        added = [thing for thing in serialization.get_safe_globals() if thing not in safe and thing not in before]
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before + added)


def read_pickled(path: Path) -> Any:
    """What `torch.save` wrote to a file, tensors on the CPU. Paths come back as text, NumPy arrays as empty objects.

    Raises:
        UserError: the file is broken, asks for something that is not on the list of safe types, or for more memory
            than a file of its size may.
    """
    place = f"checkpoint {path}"
    try:
        with _only_safe(check_file(path, place)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise unsafe(place, refused[1]) from None
        raise UserError(f"{place} is broken, truncated or not a checkpoint") from None
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever bytes make the reader stumble over
        if "can't allocate memory" in str(error):
            raise  # for which this machine is too small; the file is as large as it says
        reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise UserError(f"{place} is broken, truncated or not a checkpoint{reason}") from None
