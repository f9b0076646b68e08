"""A forward pass in which every element of a tensor is followed back to the channel that it came from.

Beside each tensor of the pass there is one of numbers, of the same shape: whose channel an element is. Whatever only
rearranges elements is done to the numbers, too, so that no operation of that sort needs to be understood. What two
channels become together (a sum, a channel of which different images' positions came from different filters) ties them:
they stay or leave together.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NOTHING = -1  # the number of an element that is 0 whatever is pruned, as of padding
STRANGER = 0  # the number of an element that no followed channel wrote: what is tied to it stays
Rule = Callable[["Tracer", str, nn.Module, Tensor, Tensor], None]
Operator = Callable[["Tracer", Any, tuple[Any, ...], Mapping[str, Any], Any], None]


@dataclass(frozen=True)
class Labels:
    """Whose channels the elements of a tensor are.

    Attributes:
        numbers: int64 of the tensor's shape.
        zero: the tensor is 0 where a channel's writers are; else it is something else, as after a sigmoid.
    """

    numbers: Tensor
    zero: bool = True


@dataclass
class Part:
    """A dimension of a tensor of the model that channels lie in.

    Attributes:
        name: the tensor's name.
        dim: the dimension.
        role: see `Slice.roles`.
        numbers: `[n]` of each position.
        module: the module whose call has shown it.
        writes: it is a convolution's, which makes these channels.
    """

    name: str
    dim: int
    role: str
    numbers: Tensor
    module: str
    writes: bool = False


class Tracer(TorchDispatchMode):
    """Follows channels through forward passes of a model.

    Args:
        model: in eval mode, on any device (on `meta`, too).
        rules: what is done about a module in the place of following what happens inside.
        operators: what is done about an operator of PyTorch, by its name.

    Attributes:
        parts: what channels lie in, in the order of the pass.
        ties: pairs `[2, n]` of numbers that stay or leave together.
        pinned: numbers that stay, and why.
        norms: the batch norms that alone read what a convolution gives, by the convolution.
        grouped: depthwise convolutions, and their outputs for every input.
        count: numbers that are given.
    """

    def __init__(self, model: nn.Module, rules: Mapping[str, Rule], operators: Mapping[str, Operator]) -> None:
        super().__init__()
        self.model, self._rules, self._operators = model, rules, operators
        self.parts: dict[tuple[str, int], Part] = {}
        self.ties: list[Tensor] = []
        self.pinned: list[tuple[Tensor, str]] = []
        self.norms: dict[str, str] = {}
        self.grouped: dict[str, int] = {}
        self.count = 1
        self._fresh: dict[str, Tensor] = {}
        self._quiet = False
        self._known: dict[int, tuple[Tensor, Labels]] = {}  # the tensors stay, so that nothing gets their ids
        self._origins: dict[int, tuple[Tensor, str, Tensor]] = {}  # of parameters of one dimension, and their views
        self._given: dict[int, tuple[Tensor, str]] = {}  # what convolutions gave
        self._calls: Counter[str] = Counter()  # of convolutions,
        self._reads: Counter[str] = Counter()  # and how often what they gave is read,
        self._normed: Counter[str] = Counter()  # by a norm

    def run(self, forward: Callable[[], Any]) -> None:
        """Follow a pass; channels that the model answers with stay."""
        with torch.no_grad(), self._watched(), self:
            answer = forward()
        for tensor in tensors_of(answer):
            if (labels := self.labels(tensor)) is not None:
                self.pin(labels.numbers, "is what the model answers")
        self._known.clear()
        self._given.clear()

    # What rules ask and say.

    def labels(self, tensor: Any) -> Labels | None:
        """Whose channels a tensor's elements are; None: it is none of the followed ones."""
        known = self._known.get(id(tensor))
        return None if known is None else known[1]

    def mark(self, tensor: Tensor, numbers: Tensor, zero: bool = True) -> None:
        """Say whose channels a tensor's elements are."""
        assert tensor.shape == numbers.shape
        self._known[id(tensor)] = tensor, Labels(numbers, zero)

    def spread(self, tensor: Tensor, numbers: Tensor, dim: int = 1, zero: bool = True) -> None:
        """Say whose each channel `[C]` of a tensor is."""
        shape = [1] * tensor.dim()
        shape[dim] = -1
        self.mark(tensor, numbers.view(shape).expand(tensor.shape), zero)

    def channels(self, tensor: Tensor, dim: int = 1) -> Tensor | None:
        """`[C]`, whose each channel of a tensor is; None: not followed.

        What lies at different positions of one channel is tied.
        """
        labels = self.labels(tensor)
        if labels is None:
            return None
        rows = labels.numbers.movedim(dim, 0)
        rows = _shortened(rows.flatten(1) if rows.dim() == 2 else rows)[0].flatten(1)  # [C, positions]
        best = rows.amax(1)
        self.tie(best[:, None].expand_as(rows), rows)
        return best

    def read(self, tensor: Tensor, module: str, dim: int = 1) -> Tensor | None:
        """`channels` of what a module reads, which has to be 0 where they are switched off."""
        labels, numbers = self.labels(tensor), self.channels(tensor, dim)
        if labels is None or numbers is None:
            return None
        if not labels.zero:
            self.pin(numbers, f"is not zero where {module} reads it")
            return None
        return numbers

    def fresh(self, module: str, count: int) -> Tensor:
        """`[count]` numbers of the channels that a module makes: the same each time that it is called."""
        if module not in self._fresh:
            self._fresh[module] = torch.arange(self.count, self.count + count)
            self.count += count
        return self._fresh[module]

    def tie(self, one: Tensor, other: Tensor) -> None:
        """Elements of two tensors of numbers stay or leave together."""
        one, other = _shortened(one, other)
        pairs = torch.stack((one.reshape(-1), other.reshape(-1)))
        pairs = pairs[:, (pairs[0] != pairs[1]) & (pairs != NOTHING).all(0)]
        if pairs.numel():
            self.ties.append(pairs.unique(dim=1))

    def pin(self, numbers: Tensor, why: str) -> None:
        """Channels stay."""
        found = numbers.reshape(-1).unique()
        self.pinned.append((found[found > 0], why))

    def lies(self, tensor: str, dim: int, role: str, numbers: Tensor, module: str, writes: bool = False) -> None:
        """Channels lie in a dimension of a tensor of the model."""
        known = self.parts.get((tensor, dim))
        if known is None:
            self.parts[tensor, dim] = Part(tensor, dim, role, numbers, module, writes)
        else:
            self.tie(known.numbers, numbers)

    def gives(self, tensor: Tensor, convolution: str) -> None:
        """A convolution gave a tensor."""
        self._given[id(tensor)] = tensor, convolution
        self._calls[convolution] += 1

    def normed(self, tensor: Tensor, norm: str) -> None:
        """A batch norm reads a tensor."""
        convolution = self._given.get(id(tensor), (tensor, ""))[1]
        if convolution and self.norms.setdefault(convolution, norm) == norm:
            self._normed[convolution] += 1

    def norm_of(self, convolution: str) -> str:
        """The batch norm that alone reads what a convolution gives; empty: none does."""
        alone = self._calls[convolution] == self._reads[convolution] == self._normed[convolution]
        return self.norms.get(convolution, "") if alone else ""

    def origin(self, tensor: Any) -> tuple[str, Tensor] | None:
        """The parameter that a tensor is a view of, and each element's place there."""
        found = self._origins.get(id(tensor))
        return None if found is None else found[1:]

    def comes_from(self, tensor: Tensor, name: str, places: Tensor) -> None:
        """A tensor is a view of a parameter."""
        self._origins[id(tensor)] = tensor, name, places

    # How it listens.

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._quiet:
            return result
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        for tensor in given:
            self._uses(tensor)
        if any(id(tensor) in self._known or id(tensor) in self._origins for tensor in given):
            name = func.overloadpacket.__name__
            operator = self._operators.get(name) or self._operators.get(name.rstrip("_"), unknown)
            with self._silence():
                operator(self, func, args, kwargs, result)
        return result

    def _uses(self, tensor: Tensor) -> None:
        if found := self._given.get(id(tensor)):
            self._reads[found[1]] += 1

    @contextmanager
    def _silence(self) -> Iterator[None]:
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Modules that there is a rule for say so when they are called, and nothing is followed inside them."""
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            wide = [dim for dim, size in enumerate(tensor.shape) if size > 1]
            if len(wide) == 1:
                self.comes_from(tensor, name, torch.arange(tensor.numel()).view(tensor.shape))
        shared = _shared(self.model)
        with ExitStack() as stack:
            for name, module in self.model.named_modules():
                rule = self._rules.get(name)
                if rule is not None:
                    stack.enter_context(self._told(name, module, _stays if id(module) in shared else rule))
            yield

    @contextmanager
    def _told(self, name: str, module: nn.Module, rule: Rule) -> Iterator[None]:
        forward, own = module.forward, module.__dict__.get("forward")

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._quiet:
                return forward(*args, **kwargs)
            with self._silence():
                result = forward(*args, **kwargs)
                x = args[0] if args else next(iter(kwargs.values()))
                self._uses(x)
                rule(self, name, module, x, result)
            return result

        object.__setattr__(module, "forward", call)
        try:
            yield
        finally:
            if own is None:
                object.__delattr__(module, "forward")
            else:
                object.__setattr__(module, "forward", own)


def unknown(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
    """An operator that is not understood: what it reads stays, and what it gives is nobody's."""
    for tensor in tree_leaves((args, kwargs)):
        labels = tracer.labels(tensor)
        if labels is not None:
            tracer.pin(labels.numbers, f"is read by {func.overloadpacket.__name__}")


def _stays(tracer: Tracer, name: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
    """A module whose weights are another's, too."""
    labels = tracer.labels(x)
    if labels is not None:
        tracer.pin(labels.numbers, f"is read by {name}, whose weights another module has, too")


def _shared(model: nn.Module) -> set[int]:
    """The ids of modules that have a parameter which another module has, too."""
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    return {owner for each in owners.values() if len(each) > 1 for owner in each}


def merged(one: Tensor, other: Tensor) -> Tensor:
    """The greater of two numbers everywhere: whose an element is that both have made."""
    short = torch.maximum(*_shortened(one, other))
    return short.expand(one.shape)


def _shortened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one shape without the dimensions along which all of them only repeat themselves."""
    for dim in range(tensors[0].dim()):
        if all(each.stride(dim) == 0 for each in tensors):
            tensors = tuple(each.narrow(dim, 0, min(1, each.shape[dim])) for each in tensors)
    return tensors


def tensors_of(answer: Any) -> list[Tensor]:
    """The tensors in what a model answers."""
    return [each for each in tree_leaves(_opened(answer)) if isinstance(each, Tensor)]


def _opened(value: Any) -> Any:
    """What an answer holds, of whatever class it is."""
    if isinstance(value, (Tensor, str, int, float, type(None))):
        return value
    if isinstance(value, Mapping):
        return [_opened(each) for each in value.values()]
    if isinstance(value, (list, tuple, set)):
        return [_opened(each) for each in value]
    return [_opened(each) for each in vars(value).values()] if hasattr(value, "__dict__") else None
