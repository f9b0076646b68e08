"""What the calls in a pickle would make, and whether that is bounded by the pickle's own size.

`call` has a rule for every function and class that a checkpoint may ask for. What has none is refused by name.
"""

import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from greedyprune.errors import UserError
from greedyprune.ranges import shown

# How files name paths, by the Python that wrote them.
PATHS = tuple(
    f"{module}.{name}"
    for module in ("pathlib", "pathlib._local")
    for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
)
# What MMEngine keeps of a training beside the weights; stand-ins that keep nothing take its place. Methods are pickled
# as calls of getattr.
_FOREIGN = re.compile(r"builtins\.getattr|(?:mmengine|mmcv|mmdet)(?:\.\w+)+", re.ASCII)
_STAND_IN = 2000  # bytes of a class
_ITEM = 64  # bytes of an object or of an item of a collection, roughly
_GROWTH = 64  # bytes that may be built for every byte of a pickle: what its shortest instructions need
_HEAVIEST_KEY = 1000  # parts of a dictionary's key, each of which is looked at to find its place


@dataclass(frozen=True)
class Name:
    """A function or class that the pickle names, as `module.name`."""

    path: str


@dataclass(eq=False)
class Thing:
    """An object that would be built.

    Attributes:
        kind: `tuple`, `list`, `dict`, `bytes`, `storage`, `tensor`, or the path of what makes it.
        items: of a tuple or list, or of a collection made of one.
        size: of a dict the entries, of a storage the elements, of bytes their number.
        weight: parts that finding its place in a dictionary looks at.
    """

    kind: str
    items: list[Any] = field(default_factory=list)
    size: int = 0
    weight: int = 1


class Budget:
    """The memory that a pickle may take.

    Args:
        length: bytes of the pickle.
        place: where it was read, for messages.
    """

    def __init__(self, length: int, place: str) -> None:
        self.place = place
        self.foreign: set[str] = set()  # classes and functions that stand-ins take the place of
        self._left = _GROWTH * length + 2**16

    def meet(self, path: str) -> None:
        """Note what the pickle names, and pay for its stand-in, if it gets one."""
        if path not in self.foreign and _FOREIGN.fullmatch(path):
            self.pay(path, size=_STAND_IN)
            self.foreign.add(path)

    def pay(self, path: str, items: int = 0, size: int = 0) -> None:
        """Take an object of so many items and bytes from what is left.

        Raises:
            UserError: nothing is left.
        """
        self._left -= _ITEM * (1 + items) + size
        if self._left < 0:
            raise self.exceeded(f"the same contents, many times over, as {path}")

    def check_keys(self, keys: list[Any]) -> None:
        """Refuse keys of a dictionary, or members of a set, that take long to find: tuples doubled by tuples."""
        if any(isinstance(key, Thing) and key.weight > _HEAVIEST_KEY for key in keys):
            raise self.exceeded("a dictionary or set of tuples within tuples")

    def exceeded(self, what: str) -> UserError:
        return UserError(f"{self.place} asks for {what}: more than a file of its size holds; it was not loaded")


def call(budget: Budget, name: Any, arguments: Any) -> Thing:
    """What a call makes.

    Args:
        budget: what it may take.
        name: what is called.
        arguments: a tuple of numbers, text and Things.

    Raises:
        UserError: it is not on the list of what may be called, or takes too much.
        Exception: of any kind, where the arguments make no sense.
    """
    given = thing(arguments, "tuple").items
    if not isinstance(name, Name):
        raise pickle.UnpicklingError("what is called has no name")
    budget.pay(name.path)
    if name.path in budget.foreign:
        return _inert(budget, name.path, given)
    if name.path in _CALLS:
        return _CALLS[name.path](budget, name.path, given)
    if re.fullmatch(r"torch\.(cuda\.)?\w*Tensor", name.path) and not given:
        return Thing("tensor")  # of an old file, which says in its state what is in it
    raise unsafe(budget.place, name.path)


def unsafe(place: str, path: str) -> UserError:
    """The refusal of a file that asks for a function or class which is not on the list."""
    name = path if re.fullmatch(r"[\w.]{1,100}", path) else shown(path)
    return UserError(
        f"{place} asks for {name}, which is not on the list of safe types: it was not loaded, and nothing in it was "
        "run; save its state dict alone (model.state_dict()), as safetensors"
    )


def tuple_of(items: list[Any]) -> Thing:
    """A tuple. Beyond the limit only that it is beyond counts: tuples doubled n times weigh 2^n."""
    weight = 1 + sum(item.weight if isinstance(item, Thing) else 1 for item in items)
    return Thing("tuple", items, weight=min(weight, _HEAVIEST_KEY + 1))


def thing(value: Any, *kinds: str) -> Thing:
    """The value, if it is a Thing of one of these kinds."""
    if not isinstance(value, Thing) or value.kind not in kinds:
        raise pickle.UnpicklingError(f"no {' or '.join(kinds)}")
    return value


def whole(value: Any) -> bool:
    """Whether a value is a whole number of at least 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check_view(budget: Budget, given: list[Any]) -> None:
    """A tensor, given as storage, offset, sizes and strides, must lie in its storage: PyTorch enlarges a small one."""
    storage, offset, size, stride = given
    sizes, strides, held = _numbers(size), _numbers(stride), thing(storage, "storage").size
    if not whole(offset) or len(sizes) != len(strides):
        raise pickle.UnpicklingError("no tensor")
    last = offset + sum((count - 1) * step for count, step in zip(sizes, strides, strict=True))
    if 0 not in sizes and last >= held:
        raise budget.exceeded(f"a tensor of shape {sizes[:8]} in a storage of {held:,}")


def _collection(budget: Budget, path: str, given: list[Any]) -> Thing:
    """A collection of another one, whose items the pickle lists one by one."""
    if not given:
        return Thing(path)
    (source,) = given
    if not isinstance(source, Thing) or source.kind not in _LISTED:
        raise budget.exceeded(f"a {path} of something that is no list")
    items = source.items
    if path == "collections.OrderedDict" and source.kind in ("tuple", "list"):
        items = [thing(pair, "tuple", "list").items[0] for pair in items]
    budget.check_keys(items)
    budget.pay(path, items=max(source.size, len(items)))
    return Thing(path, list(items), source.size)


def _size(budget: Budget, path: str, given: list[Any]) -> Thing:
    (source,) = given
    numbers = _numbers(source)
    budget.pay(path, items=len(numbers))
    return tuple_of(numbers)


def _bytes(budget: Budget, path: str, given: list[Any]) -> Thing:
    """Bytes, or text as bytes. A bytearray of a number has as many; other codecs unpack."""
    data, encoding = (*given, "latin1")[:2] if given else (b"", "latin1")
    if isinstance(data, Thing) and data.kind == "bytes":
        size = data.size
    elif isinstance(data, (bytes, str)) and encoding in ("latin1", "latin-1"):
        size = len(data)
    else:
        raise budget.exceeded(f"a {path} of something that is no text")
    budget.pay(path, size=size)
    return Thing("bytes", size=size)


def _scalar(budget: Budget, path: str, given: list[Any]) -> Thing:
    kind, data = given
    thing(kind, "numpy.dtype")
    budget.pay(path, size=data.size if isinstance(data, Thing) else len(data))
    return Thing(path)


def _plain(budget: Budget, path: str, given: list[Any]) -> Thing:
    """Something as large as the numbers and the text that it is made of."""
    if any(isinstance(part, (Thing, Name)) for part in given):
        raise pickle.UnpicklingError(f"{path} of an object")
    budget.pay(path, size=sum(len(part) for part in given if isinstance(part, (str, bytes))))
    return Thing(path)


def _inert(budget: Budget, path: str, given: list[Any]) -> Thing:
    """What a stand-in takes the place of, which keeps nothing."""
    return Thing("numpy.ndarray")


def _namespace(budget: Budget, path: str, given: list[Any]) -> Thing:
    if given:
        raise pickle.UnpicklingError("a namespace with arguments")
    return Thing(path)


def _view(budget: Budget, path: str, given: list[Any]) -> Thing:
    check_view(budget, given[:4])
    return Thing("tensor")


def _quantized(budget: Budget, path: str, given: list[Any]) -> Thing:
    """A tensor that is made of its full size before its storage is put into it, and its scales."""
    check_view(budget, given[:4])
    count = math.prod(_numbers(given[2]))
    scales = [part for part in thing(given[4], "tuple").items if isinstance(part, Thing) and part.kind != "tensor"]
    if count > given[0].size or scales:
        raise budget.exceeded(f"a quantized tensor of {count:,} numbers")
    return Thing("tensor")


def _meta(budget: Budget, path: str, given: list[Any]) -> Thing:
    _numbers(given[1])
    _numbers(given[2])
    return Thing("tensor")


def _sparse(budget: Budget, path: str, given: list[Any]) -> Thing:
    for part in thing(given[1], "tuple").items[:2]:
        thing(part, "tensor")
    return Thing("sparse tensor")


def _parameter(budget: Budget, path: str, given: list[Any]) -> Thing:
    return Thing(thing(given[0], "tensor", "sparse tensor").kind)


def _from_type(budget: Budget, path: str, given: list[Any]) -> Thing:
    """A tensor with attributes of its own: what makes it, its type, the arguments and the attributes."""
    function, _, arguments, _ = given
    return call(budget, function, arguments)


def _numbers(value: Any) -> list[int]:
    items = thing(value, "tuple", "list").items
    if not all(whole(item) for item in items):
        raise pickle.UnpicklingError("a size of something else than numbers")
    return items


# What collections may be made of: their items are in the pickle one by one.
_LISTED = ("tuple", "list", "dict", "builtins.set", "builtins.frozenset", "collections.OrderedDict")
_COLLECTIONS = ("builtins.set", "builtins.frozenset", "collections.OrderedDict", "collections.Counter")
_PLAIN = ("builtins.complex", "builtins.range", "builtins.slice", "torch.device", "torch.serialization._get_layout")
_CALLS: dict[str, Callable[[Budget, str, list[Any]], Thing]] = {
    **dict.fromkeys(_COLLECTIONS, _collection),
    **dict.fromkeys(("builtins.bytearray", "_codecs.encode"), _bytes),
    **dict.fromkeys((*_PLAIN, *PATHS, "numpy.dtype"), _plain),
    **dict.fromkeys(("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"), _scalar),
    **dict.fromkeys(("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"), _inert),
    "numpy.ndarray": _inert,
    "argparse.Namespace": _namespace,
    "torch.Size": _size,
    "torch.nn.parameter.Parameter": _parameter,
    **{f"torch._utils._rebuild_tensor{version}": _view for version in ("", "_v2", "_v3")},
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
}
