"""Marked tensors tell when their numbers are read or written, and only then."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from greedyprune.pruning.marked import Hollow, Leaf, Marked, Missing, Pass, Placeholder, Watched, Watching

LEAF: Leaf = (("module", 0), 0)
OTHER: Leaf = (("module", 0), 1)
CPU = torch.device("cpu")


def watched(state: Watching, leaf: Leaf = LEAF) -> Tensor:
    return Watched.of(torch.arange(6.0).view(2, 3), frozenset((leaf,)), state, CPU)


def stand_in(state: Pass, leaf: Leaf = LEAF) -> Tensor:
    return Hollow(torch.Size((2, 3)), torch.float32, CPU, leaf).placeholder(state)


ASKED: dict[str, Callable[[Tensor], object]] = {
    "shape": lambda x: x.shape,
    "size": lambda x: (x.size(), x.size(1), x.numel(), len(x), x.dim(), x.ndim),
    "type": lambda x: (x.dtype, x.is_floating_point(), x.requires_grad),
}
LAZY: dict[str, Callable[[Tensor], object]] = {
    "arithmetic": lambda x: (x + 1) @ x.mT,
    "invert": lambda x: ~(x > 2),
    "split": lambda x: x.split(1, dim=1),
    "functional": lambda x: F.layer_norm(x.flatten(), (6,)),
    "cat": lambda x: torch.cat([x, torch.zeros(2, 3)]),
    "max": lambda x: x.max(1),
    "new": lambda x: torch.zeros_like(x),
}
READING: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 2).any()),
    "list": lambda x: x.tolist(),
    "int": lambda x: int(x[0, 1]),
    "iteration": lambda x: [float(row.sum()) for row in x],
    "index": lambda x: torch.arange(9)[x[0].long()].tolist(),
}
WRITING: dict[str, Callable[[Tensor], object]] = {
    "method": lambda x: x.add_(1),
    "augmented": lambda x: x.__iadd__(1),
    "item": lambda x: x.__setitem__((0, 0), 5.0),
    "inplace": lambda x: F.relu(x, inplace=True),
    "out": lambda x: torch.mul(torch.ones(2, 3), 2, out=x),
    "view": lambda x: x.view(-1)[2:].mul_(2),
}


@pytest.mark.parametrize("name", {**ASKED, **LAZY})
def test_what_is_asked_or_made_of_a_tensor_before_the_pass_is_live_reads_nothing(name: str) -> None:
    ask = {**ASKED, **LAZY}[name]
    state, plain = Watching(), torch.arange(6.0).view(2, 3)
    found = ask(watched(state))
    assert not state.read
    assert not state.written
    several = isinstance(found, tuple) and not isinstance(found, torch.Size)
    for mine, own in zip(*((given if several else (given,)) for given in (found, ask(plain))), strict=True):
        assert isinstance(mine, Watched) == isinstance(own, Tensor)
        if isinstance(own, Tensor):
            assert torch.equal(mine.plain(), own)
            assert mine.leaves == {LEAF}
        else:
            assert mine == own


@pytest.mark.parametrize("name", READING)
def test_numbers_that_come_out_of_a_tensor_were_read_live_or_not(name: str) -> None:
    for live in (False, True):
        state = Watching()
        state.begin(live)
        assert READING[name](watched(state)) == READING[name](torch.arange(6.0).view(2, 3))
        assert state.read == {LEAF}
        with pytest.raises(Missing) as caught:
            READING[name](stand_in(Pass(live)))
        assert caught.value.leaves == {LEAF}


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("name", WRITING)
def test_what_is_written_into_is_told(name: str, live: bool) -> None:
    state = Watching()
    state.begin(live)
    tensor = watched(state)
    plain = torch.arange(6.0).view(2, 3)
    WRITING[name](plain)
    WRITING[name](tensor)
    assert state.written == {LEAF}
    assert state.read >= {LEAF}
    assert torch.equal(tensor.plain(), plain)
    if name != "view":
        with pytest.raises(Missing):
            WRITING[name](stand_in(Pass(live)))


def test_what_something_live_is_given_is_read_and_what_it_makes_is_plain() -> None:
    state = Watching()
    mixed = watched(state) + watched(state, OTHER)
    assert mixed.leaves == {LEAF, OTHER}
    state.begin(True)
    result = mixed * 2
    assert state.read == {LEAF, OTHER}
    assert not isinstance(result, Marked)
    # A view of it is not plain: what is written into it is written into the tensor.
    assert isinstance(mixed.view(-1), Watched)
    assert not isinstance(mixed.view(-1) + 0, Marked)


def test_stand_ins_have_the_shapes_of_what_they_stand_for_and_no_numbers() -> None:
    state = Pass()
    tensor = stand_in(state)
    assert (tensor.shape, tensor.device, tensor.dtype) == ((2, 3), CPU, torch.float32)
    made = F.linear(tensor + torch.ones(3), torch.ones(5, 3)).flatten(0, 1)
    assert isinstance(made, Placeholder)
    assert made.plain().device.type == "meta"
    assert (made.shape, made.leaves) == ((10,), {LEAF})
    state.begin(True)
    assert made.shape == (10,)
    with pytest.raises(Missing) as caught:
        made + 1
    assert caught.value.leaves == {LEAF}


def test_what_was_made_of_stand_ins_is_the_same_in_the_next_pass_until_something_else_is_made() -> None:
    state = Pass()
    tensor = stand_in(state)
    first = (tensor + 1).relu()
    state.begin(False)
    assert (tensor + 1).relu() is first
    state.begin(False)
    other = (tensor * 2).relu()
    assert other is not first
    state.begin(False)
    assert (tensor * 2).relu() is other


def test_of_stand_ins_and_other_tensors_only_a_stand_in_can_be_made() -> None:
    state = Watching()
    mixed = watched(state, OTHER) + stand_in(state)
    assert isinstance(mixed, Placeholder)
    assert mixed.leaves == {LEAF, OTHER}
