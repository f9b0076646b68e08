"""Calls of a model's submodules in a forward pass, and the places between them at which changes begin to matter.

A call is known by the submodule's name and the number of the call in the pass.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from greedyprune.pruning.marked import Call
from greedyprune.sites.change import Change, place_of

END: Call = ("", 0)  # the place after everything
Forward = Callable[[Any], Any]


@contextmanager
def heard(
    model: nn.Module,
    values: Mapping[Call, Any] | None = None,
    inside: Mapping[Call, Sequence[str]] | None = None,
    began: Callable[[Call], None] | None = None,
    ended: Callable[[Call, Any], None] | None = None,
) -> Iterator[None]:
    """Every call of a submodule answers with its value, where it has one; the others are told when they run."""
    counts: Counter[str] = Counter()
    known = values or {}

    def wrapped(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            this = (name, counts[name])
            counts[name] += 1
            if began is not None:
                began(this)
            if this in known:
                output = known[this]
                # What would have been called counts, so that later calls have the same numbers.
                counts.update((inside or {}).get(this, ()))
            else:
                output = forward(*args, **kwargs)
            if ended is not None:
                ended(this, output)
            return output

        return call

    modules = [(name, module) for name, module in model.named_modules() if name]
    own = [module.__dict__.get("forward") for _, module in modules]
    for name, module in modules:
        object.__setattr__(module, "forward", wrapped(name, module.forward))
    try:
        yield
    finally:
        for (_, module), before in zip(modules, own, strict=True):
            if before is None:
                object.__delattr__(module, "forward")
            else:
                object.__setattr__(module, "forward", before)


class Order:
    """The order of all calls in a forward pass.

    Args:
        model: in eval mode.
        forward: runs it on inputs.
        inputs: of one batch.
    """

    def __init__(self, model: nn.Module, forward: Forward, inputs: Any) -> None:
        self.starts: dict[Call, int] = {}
        # A shared module has several names, of which its calls have the first.
        first = {id(module): name for name, module in model.named_modules()}
        self._names = {name: first[id(module)] for name, module in model.named_modules(remove_duplicate=False)}

        def began(call: Call) -> None:
            self.starts[call] = len(self.starts)

        with torch.no_grad(), heard(model, began=began):
            forward(inputs)

    def first(self, modules: Iterable[str]) -> Call | None:
        """The place before which nothing depends on some modules.

        Args:
            modules: names; one that is never called is felt where the module that it lies in is called first.

        Returns:
            The earliest of their first calls; None: the start of the pass; `END` if there are none.
        """
        found: list[Call] = []
        for module in modules:
            call = self._first(module)
            if call is None:
                return None
            found.append(call)
        return min(found, key=self.starts.__getitem__, default=END)

    def _first(self, module: str) -> Call | None:
        while module:
            call = self._names.get(module, module), 0
            if call in self.starts:
                return call
            module = module.rpartition(".")[0]
        return None

    def before(self, first: Call | None, second: Call | None) -> bool:
        """Whether one place lies before another; None is the start of the pass."""
        return self._position(first) < self._position(second)

    def _position(self, place: Call | None) -> int:
        if place == END:
            return len(self.starts)
        return -1 if place is None else self.starts[place]


def differing(one: Change, other: Change) -> set[str]:
    """The modules in which two changes of one model differ."""
    tensors, others = one.standing(), other.standing()
    found = {place_of(name)[0] for name in {**tensors, **others} if tensors.get(name) is not others.get(name)}
    for place in {**one.settings, **other.settings}:
        own, its = one.settings.get(place), other.settings.get(place)
        module = isinstance(own, nn.Module) or isinstance(its, nn.Module)
        if type(own) is not type(its) if module else own != its:
            found.add(".".join(filter(None, place)) if module else place[0])
    return found
