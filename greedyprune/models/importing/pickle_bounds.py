"""What a file of `torch.save` would build, found out before it is built.

PyTorch's weights-only reader runs no code, but 60 bytes can still ask it for all memory: a set of a range, a bytearray
of a number, a storage larger than its file, a dictionary's key of tuples that hold each other twice. `check_file` goes
through the same instructions, keeps of each object only what tells its size, and refuses what is not bounded by the
file's own size. The instructions are those of PyTorch's reader (torch/_weights_only_unpickler.py), and no others.
"""

import _compat_pickle
import io
import mmap
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from greedyprune.errors import UserError
from greedyprune.models.importing.pickle_calls import Budget, Name, Thing, call, check_view, thing, tuple_of, whole

_MAGIC = 0x1950A86A20F9469CFC6C  # what files of PyTorch before 1.6 start with, as a pickle
# Bytes of an element in a storage, by its class.
_ELEMENT_SIZES = {
    **dict.fromkeys(
        ("UntypedStorage", "ByteStorage", "CharStorage", "BoolStorage", "QUInt8Storage", "QInt8Storage"), 1
    ),
    **dict.fromkeys(("ShortStorage", "HalfStorage", "BFloat16Storage"), 2),
    **dict.fromkeys(("IntStorage", "FloatStorage", "QInt32Storage"), 4),
    **dict.fromkeys(("LongStorage", "DoubleStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}


class Source(Protocol):
    """A file, or bytes in memory; reading beyond the end gives what is left."""

    def read(self, size: int, /) -> bytes: ...

    def readline(self) -> bytes: ...


def check_file(path: Path, place: str) -> set[str]:
    """Refuse a file that would take more memory than one of its size may.

    Args:
        path: what `torch.save` wrote, in today's format (a zip) or the one before PyTorch 1.6.
        place: how messages call it.

    Returns:
        Foreign classes and functions that it names, for each of which a stand-in is needed that keeps nothing.

    Raises:
        UserError: it asks for too much, for something that is not on the list of safe types, or is a TorchScript.
        Exception: of any kind, where it is no such file.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if zipped:
        return _check_zip(path, place)
    if tarfile.is_tarfile(path):
        raise pickle.UnpicklingError("a format that PyTorch reads with code in it")
    return _check_old(path, place)


def _check_zip(path: Path, place: str) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        sizes = {entry.filename.lower(): entry.file_size for entry in entries}  # PyTorch's reader knows no case
        if len(sizes) != len(entries) or sum(sizes.values()) > path.stat().st_size:
            raise Budget(0, place).exceeded("packed or overlapping parts")
        folder = entries[0].filename.split("/")[0]
        if f"{folder}/constants.pkl".lower() in sizes:
            raise UserError(f"{place} is a TorchScript archive, which is code: save its model's state_dict() instead")
        content = archive.read(f"{folder}/data.pkl")

    def stored(key: str, size: int) -> bool:
        return size <= sizes[f"{folder}/data/{key}".lower()]

    budget = Budget(len(content), place)
    _Reader(io.BytesIO(content), budget, stored).read()
    return budget.foreign


def _check_old(path: Path, place: str) -> set[str]:
    """Five pickles, of which the fourth is the content, and then the storages."""
    left, foreign = path.stat().st_size, set[str]()

    def stored(key: str, size: int) -> bool:
        nonlocal left
        left -= size
        return left >= 0

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source:
        for index in range(5):
            budget = Budget(len(source), place)
            found = _Reader(source, budget, stored).read()
            foreign |= budget.foreign
            if index == 0 and found != _MAGIC:
                raise pickle.UnpicklingError("no magic number")
    return foreign


class _Reader:
    """One pickle; numbers and text are as they would be, anything else is a Thing.

    Args:
        source: where it starts; left behind its end.
        budget: what it may take.
        stored: whether the file holds a storage of this key and of so many bytes.
    """

    def __init__(self, source: Source, budget: Budget, stored: Callable[[str, int], bool]) -> None:
        self._source, self._budget, self._stored = source, budget, stored
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[Any, Thing] = {}

    def read(self) -> Any:
        while (code := self._source.read(1)) != pickle.STOP:
            if code in _CONSTANTS:
                self._stack.append(_CONSTANTS[code])
            elif code in _LITERALS:
                self._stack.append(_LITERALS[code](self._take))
            elif code in _INSTRUCTIONS:
                _INSTRUCTIONS[code](self)
            else:
                raise pickle.UnpicklingError(f"instruction {code!r}")
        return self._stack.pop()

    def _take(self, size: int) -> bytes:
        data = self._source.read(size)
        if len(data) != size:
            raise EOFError
        return data

    def _proto(self) -> None:
        self._take(1)

    def _global(self) -> None:
        module, name = (self._source.readline()[:-1].decode() for _ in range(2))
        # Names of Python 2, as PyTorch's reader takes them.
        module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
        found = Name(f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}")
        self._budget.meet(found.path)
        self._stack.append(found)

    def _get(self) -> None:
        self._stack.append(self._memo[self._take(1)[0]])

    def _long_get(self) -> None:
        self._stack.append(self._memo[struct.unpack("<I", self._take(4))[0]])

    def _put(self) -> None:
        self._memo[self._take(1)[0]] = self._stack[-1]

    def _long_put(self) -> None:
        self._memo[struct.unpack("<I", self._take(4))[0]] = self._stack[-1]

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _tuple(self) -> None:
        items = self._pop_mark()
        self._stack.append(tuple_of(items))

    def _tuple_of(self, count: int) -> None:
        items = [self._stack.pop() for _ in range(count)]
        self._stack.append(tuple_of(items[::-1]))

    def _append(self) -> None:
        item = self._stack.pop()
        thing(self._stack[-1], "list").items.append(item)

    def _appends(self) -> None:
        items = self._pop_mark()
        thing(self._stack[-1], "list").items.extend(items)

    def _setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _setitems(self) -> None:
        self._set(self._pop_mark())

    def _set(self, items: list[Any]) -> None:
        target = thing(self._stack[-1], "dict", "collections.OrderedDict", "collections.Counter")
        self._budget.check_keys(items[::2])
        target.size += len(items) // 2

    def _reduce(self) -> None:
        arguments = self._stack.pop()
        self._stack[-1] = call(self._budget, self._stack[-1], arguments)

    def _newobj(self) -> None:
        arguments, name = self._stack.pop(), self._stack.pop()
        self._stack.append(call(self._budget, name, arguments))

    def _build(self) -> None:
        state, built = self._stack.pop(), self._stack[-1]
        if not isinstance(built, Thing):
            raise pickle.UnpicklingError("what gets a state is no object")
        if built.kind in ("argparse.Namespace", "collections.OrderedDict"):
            self._budget.pay(built.kind, items=thing(state, "dict").size)
        elif built.kind == "tensor":
            check_view(self._budget, thing(state, "tuple").items)
        elif built.kind not in ("numpy.dtype", "numpy.ndarray"):
            raise pickle.UnpicklingError(f"{built.kind} has no state")

    def _persistent(self) -> None:
        """A storage: its type, key, device, number of elements and, in the old format, which part of it is meant."""
        word, kind, key, _, count, *_ = thing(self._stack.pop(), "tuple").items
        element = _ELEMENT_SIZES[kind.path.rsplit(".", 1)[-1]]
        if word not in ("storage", b"storage") or not isinstance(key, (str, int)) or not whole(count):
            raise pickle.UnpicklingError("no storage")
        if key not in self._storages:
            if not self._stored(str(key), count * element):
                raise self._budget.exceeded(f"a storage of {count * element:,} bytes")
            self._storages[key] = Thing("storage", size=count)
        self._stack.append(self._storages[key])


def _text(take: Callable[[int], bytes]) -> str:
    return str(take(struct.unpack("<I", take(4))[0]), "utf-8", "surrogatepass")


_CONSTANTS: dict[bytes, Any] = {pickle.NONE: None, pickle.NEWFALSE: False, pickle.NEWTRUE: True}
_LITERALS: dict[bytes, Callable[[Callable[[int], bytes]], Any]] = {
    pickle.BININT: lambda take: struct.unpack("<i", take(4))[0],
    pickle.BININT1: lambda take: take(1)[0],
    pickle.BININT2: lambda take: struct.unpack("<H", take(2))[0],
    pickle.BINFLOAT: lambda take: struct.unpack(">d", take(8))[0],
    pickle.BINUNICODE: _text,
    pickle.SHORT_BINSTRING: lambda take: take(take(1)[0]),
    pickle.LONG1: lambda take: pickle.decode_long(take(take(1)[0])),
    pickle.EMPTY_TUPLE: lambda take: Thing("tuple"),
    pickle.EMPTY_LIST: lambda take: Thing("list"),
    pickle.EMPTY_DICT: lambda take: Thing("dict"),
    pickle.EMPTY_SET: lambda take: Thing("builtins.set"),
}
_INSTRUCTIONS: dict[bytes, Callable[[_Reader], None]] = {
    pickle.PROTO: _Reader._proto,
    pickle.GLOBAL: _Reader._global,
    pickle.BINGET: _Reader._get,
    pickle.LONG_BINGET: _Reader._long_get,
    pickle.BINPUT: _Reader._put,
    pickle.LONG_BINPUT: _Reader._long_put,
    pickle.MARK: _Reader._mark,
    pickle.TUPLE: _Reader._tuple,
    pickle.TUPLE1: lambda reader: reader._tuple_of(1),
    pickle.TUPLE2: lambda reader: reader._tuple_of(2),
    pickle.TUPLE3: lambda reader: reader._tuple_of(3),
    pickle.APPEND: _Reader._append,
    pickle.APPENDS: _Reader._appends,
    pickle.SETITEM: _Reader._setitem,
    pickle.SETITEMS: _Reader._setitems,
    pickle.REDUCE: _Reader._reduce,
    pickle.NEWOBJ: _Reader._newobj,
    pickle.BUILD: _Reader._build,
    pickle.BINPERSID: _Reader._persistent,
}
