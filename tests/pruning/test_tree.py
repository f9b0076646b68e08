"""Tensors inside whatever a module returns."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from greedyprune.pruning.tree import map_tensors, storages, tensors_in


class Named(NamedTuple):
    one: Tensor
    none: None


@dataclass(frozen=True)
class Held:
    tensor: Tensor
    text: str
    made: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "made", [self.tensor + 1])


class Output(OrderedDict):
    """A dictionary of a class of its own, as transformers returns."""


def test_every_tensor_of_any_structure_is_changed_and_nothing_else() -> None:
    one = torch.ones(2)
    value = (Named(one, None), [one, 3], {"a": Held(one, "text")}, Output(b=(one,)), "text", None)
    doubled = map_tensors(value, lambda tensor: tensor * 2)
    assert len(tensors_in(value)) == len(tensors_in(doubled)) == 5
    assert [tensor.sum().item() for tensor in tensors_in(doubled)] == [4, 4, 4, 8, 4]
    assert [tensor.sum().item() for tensor in tensors_in(value)] == [2, 2, 2, 4, 2]
    named, (_, number), made, output, text, none = doubled
    assert isinstance(named, Named)
    assert isinstance(made["a"], Held)
    assert made["a"].text == "text"
    assert isinstance(output, Output)
    assert (number, text, none) == (3, "text", None)
    assert map_tensors([3, "x"], lambda n: n + 1, int) == [4, "x"]


def test_memory_that_several_tensors_lie_in_counts_once() -> None:
    base = torch.zeros(100)
    assert sum(storages([base, base[:3], (base.view(10, 10),)]).values()) == 400
    assert sum(storages([base, torch.zeros(5)]).values()) == 420
