"""Tensors that tell when their numbers are read, and stand-ins for tensors whose numbers nothing should read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from greedyprune.pruning.tree import map_tensors, storages

Call = tuple[str, int]  # a module's name, and how many times it was called before in the pass
Leaf = tuple[Call, int]  # the number of a tensor in what a call gave
# What may be asked of a tensor without reading its numbers.
_DEVICE = Tensor.device.__get__
_METADATA = {getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad")} | {
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.__len__,
    Tensor.is_floating_point,
}
_NOT_AUGMENTED = {"__invert__", "__int__", "__index__"}


class Missing(Exception):
    """A pass reads tensors that only have stand-ins.

    Attributes:
        leaves: the tensors.
    """

    def __init__(self, leaves: frozenset[Leaf]) -> None:
        super().__init__(leaves)
        self.leaves = leaves


@dataclass
class Pass:
    """Where a forward pass is.

    Attributes:
        live: it is past the place that it goes on from.
        known: what was made of stand-ins before the pass was live, function after function: it is the same in every
            pass over the same stand-ins.
        step: how many of these were called.
    """

    live: bool = False
    known: list[tuple[Any, Any]] = field(default_factory=list)
    step: int = 0

    def begin(self, live: bool) -> None:
        """Start a pass."""
        self.live, self.step = live, 0

    def again(self, func: Any) -> Any:
        """What a function of stand-ins gave in an earlier pass; None: it is the first time."""
        if self.step == len(self.known):
            return None
        before, result = self.known[self.step]
        if before != func:
            del self.known[self.step :]
            return None
        self.step += 1
        return result


class Marked(Tensor):
    """A tensor that knows what it was made of.

    What is made of marked tensors before the pass is live is marked, too: it counts as read only where something live
    reads it, and not where it goes into a call that answers from memory.
    """

    leaves: frozenset[Leaf]
    state: Any  # a Pass
    real_device: torch.device

    @classmethod
    def of(cls, tensor: Tensor, leaves: frozenset[Leaf], state: "Pass", device: torch.device) -> "Marked":
        """A tensor, marked.

        Args:
            tensor: any.
            leaves: what it was made of.
            state: the pass.
            device: where its numbers are, or would be.
        """
        marked = tensor.as_subclass(cls)
        marked.leaves, marked.state, marked.real_device = leaves, state, device
        return marked

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        first = first[0] if isinstance(first, (tuple, list)) and first else first
        if isinstance(first, Placeholder) and not first.state.live and func not in _METADATA:
            again = first.state.again(func)
            if again is not None:
                return again
        met: list[Marked] = []

        def plain(tensor: Tensor) -> Tensor:
            if isinstance(tensor, Marked):
                met.append(tensor)
                return tensor.plain()
            return tensor

        with torch._C.DisableTorchFunctionSubclass():
            if func in _METADATA:
                return args[0].real_device if func == _DEVICE else func(*args, **kwargs)
            given = map_tensors((args, kwargs), plain)
            leaves = frozenset().union(*(tensor.leaves for tensor in met))
        # Of a stand-in and anything else only a stand-in can be made.
        one = next((tensor for tensor in met if isinstance(tensor, Placeholder)), met[0])
        return one.called(func, given, leaves, _writes(func, kwargs))

    def like(self, tensor: Tensor, leaves: frozenset[Leaf]) -> "Marked":
        """Another tensor, marked in the same pass."""
        return type(self).of(tensor, leaves, self.state, self.real_device)

    def plain(self) -> Tensor:
        """The tensor itself."""
        return self.as_subclass(Tensor)

    def called(self, func: Callable[..., Any], given: Any, leaves: frozenset[Leaf], writes: bool) -> Any:
        """What a function of marked tensors gives."""
        raise NotImplementedError


def _writes(func: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a function may change a tensor that it is given."""
    name = getattr(func, "__name__", "")
    augmented = name.startswith("__i") and name not in _NOT_AUGMENTED
    in_place = augmented or name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
    return in_place or bool(kwargs.get("inplace")) or kwargs.get("out") is not None


class Watched(Marked):
    """A marked tensor with its numbers; what is read of it goes into its pass."""

    def called(self, func: Callable[..., Any], given: Any, leaves: frozenset[Leaf], writes: bool) -> Any:
        result = func(*given[0], **given[1])
        if writes:
            self.state.written |= leaves
        if not (self.state.live or writes or not _tensors_alone(result)):
            return map_tensors(result, lambda tensor: self.like(tensor, leaves))
        self.state.read |= leaves
        # A view stays marked: what is written into it is written into the tensor itself.
        memory = storages(given).keys()
        return map_tensors(result, lambda t: self.like(t, leaves) if storages(t).keys() & memory else t)


class Placeholder(Marked):
    """A marked tensor without numbers, and without memory: a function of it is one, too, until the pass is live."""

    def called(self, func: Callable[..., Any], given: Any, leaves: frozenset[Leaf], writes: bool) -> Any:
        if self.state.live or writes:
            raise Missing(leaves)
        again = self.state.again(func)
        if again is not None:
            return again
        try:
            result = func(*map_tensors(given[0], _meta), **map_tensors(given[1], _meta))
        except (RuntimeError, NotImplementedError):
            raise Missing(leaves) from None
        if not _tensors_alone(result):
            raise Missing(leaves)
        marked = map_tensors(result, lambda tensor: self.like(tensor, leaves))
        self.state.known.append((func, marked))
        self.state.step += 1
        return marked


class Watching(Pass):
    """A pass over watched tensors.

    Attributes:
        read: the tensors whose numbers something live has read.
        written: those that something has changed in place.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: frozenset[Leaf] = frozenset()
        self.written: frozenset[Leaf] = frozenset()


@dataclass(frozen=True)
class Hollow:
    """A tensor of a tape that nothing reads.

    Attributes:
        shape: its shape.
        dtype: its type.
        device: where it would be.
        leaf: which it is.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    leaf: Leaf

    def placeholder(self, state: Pass) -> Marked:
        """Its stand-in in a pass."""
        empty = torch.empty(self.shape, dtype=self.dtype, device="meta")
        return Placeholder.of(empty, frozenset((self.leaf,)), state, self.device)


def _meta(tensor: Tensor) -> Tensor:
    return tensor.to("meta")


def _tensors_alone(value: Any) -> bool:
    """Whether a function gave tensors and nothing else, which would tell numbers."""
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and all(map(_tensors_alone, value)))
