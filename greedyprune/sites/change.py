"""Changes: what makes a model of one width into one of another."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

Attribute = tuple[str, str]  # a module's name, and that of an attribute or a submodule of it


@dataclass(frozen=True)
class Pairing:
    """Which of the dense model's queries and answers a changed model still has.

    Attributes:
        queries: `[q]` the dense model's number of each query; None: all are there.
        gone: numbers of the dense model's answers, front to back, that are not given any more.
    """

    queries: Tensor | None = None
    gone: frozenset[int] = frozenset()

    def __or__(self, other: "Pairing") -> "Pairing":
        queries = self.queries if other.queries is None else other.queries
        return Pairing(queries, self.gone | other.gone)


WHOLE = Pairing()


@dataclass(frozen=True)
class Change:
    """What makes a model of one width into one of another.

    Attributes:
        tensors: parameters and buffers by their names in the state dict.
        settings: values of attributes that remember a width, and modules that take the place of others.
        pairing: which queries and answers are left.
        left: of dimensions of tensors, by name and number, which of their positions are left, ascending: by it another
            site finds its channels in what this one has cut.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    settings: Mapping[Attribute, Any] = field(default_factory=dict)
    pairing: Pairing = WHOLE
    left: Mapping[tuple[str, int], Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __or__(self, other: "Change") -> "Change":
        """Both changes, where they meet the other one."""
        return Change(
            {**self.tensors, **other.tensors},
            {**self.settings, **other.settings},
            self.pairing | other.pairing,
            {**self.left, **other.left},
        )

    def __bool__(self) -> bool:
        return bool(self.tensors or self.settings)

    def standing(self) -> dict[str, Tensor]:
        """The tensors that are not inside a module that leaves: such a module takes its own with it."""
        gone = [".".join(filter(None, place)) for place, value in self.settings.items() if isinstance(value, nn.Module)]
        return {n: t for n, t in self.tensors.items() if not any(n.startswith(f"{module}.") for module in gone)}

    def to(self, device: torch.device) -> "Change":
        """The change with its tensors on a device."""
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})


@contextmanager
def installed(model: nn.Module, change: Change) -> Iterator[None]:
    """The change inside the model, in place; the model is as it was afterwards, to the bit.

    Everything that reads shapes from tensors (running, counting parameters and multiply-adds) sees the new ones.
    """
    tensors = change.standing()
    before = {place: get_attribute(model, *place) for place in (*map(place_of, tensors), *change.settings)}
    try:
        _put(model, tensors, change)
        yield
    finally:
        for place, value in reversed(before.items()):
            _set(model, *place, value)


def put(model: nn.Module, change: Change) -> None:
    """The change inside the model, for good; its tensors are copied."""
    _put(model, {name: tensor.detach().clone() for name, tensor in change.standing().items()}, change)


def _put(model: nn.Module, tensors: Mapping[str, Tensor], change: Change) -> None:
    for name, tensor in tensors.items():
        own = get_attribute(model, *place_of(name))
        # A parameter where a parameter was, a buffer where a buffer was.
        parameter = isinstance(own, nn.Parameter)
        new = nn.Parameter(tensor.detach(), requires_grad=own.requires_grad) if parameter else tensor.detach()
        _set(model, *place_of(name), new)
    for place, value in change.settings.items():
        _set(model, *place, value)


def place_of(name: str) -> Attribute:
    """The owner of a tensor or module, and what it is called there, from its name in the model."""
    owner, _, attribute = name.rpartition(".")
    return owner, attribute


def get_attribute(model: nn.Module, module: str, attribute: str) -> Any:
    """An attribute, a tensor or a submodule of a module of the model."""
    return getattr(model.get_submodule(module), attribute)


def _set(model: nn.Module, module: str, attribute: str, value: Any) -> None:
    setattr(model.get_submodule(module), attribute, value)
