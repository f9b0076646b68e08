"""Weights that stay zero while a model is trained, in any loop, with any optimizer."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from greedyprune.classical.base import Subject
from greedyprune.classical.weights import weights_of
from greedyprune.sites.change import place_of

Model = TypeVar("Model", bound=nn.Module)


class Kept(nn.Module):
    """A parametrization of a weight: zeros where it is not kept, which take no gradient either.

    Args:
        kept: bool of the weight's shape, True where it stays.
    """

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.where(self.kept, weight, 0.0)


def zeros(subject: Subject) -> dict[str, Tensor]:
    """Where the weights are not zero, of those that have zeros: name -> bool of the weight's shape."""
    kept = {name: weight != 0 for name, weight in weights_of(subject).items()}
    return {name: each for name, each in kept.items() if not each.all()}


def hold(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """From now on weights of a model are zero where they are not kept, whatever is done to their parameters.

    Until `fold` the parameters have other names. Make the optimizer afterwards, or before: they are the same objects.

    Args:
        model: changed in place.
        kept: weight name -> bool of its shape.

    Raises:
        ValueError: a layer has another parametrization, or this one already.
    """
    for name, each in kept.items():
        module, attribute = place_of(name)
        owner = model.get_submodule(module)
        if parametrize.is_parametrized(owner, attribute) or not _ours(owner):
            raise ValueError(f"{name} has a parametrization already; remove it first")
        weight = getattr(owner, attribute)
        parametrize.register_parametrization(owner, attribute, Kept(each.to(weight.device)))


def fold(model: Model) -> Model:
    """The model itself, its held weights plain parameters with zeros again, and the same objects as before."""
    for module in model.modules():
        chains = _chains(module)
        if not chains or not _ours(module):
            continue
        # Not torch's remove_parametrizations: it takes the weight from the class, which copies of the module share.
        values = {name: (chain.original, chain().detach()) for name, chain in chains.items()}
        plain = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        module.__class__ = plain
        for name, (parameter, value) in values.items():
            parameter.data = value
            module.register_parameter(name, parameter)
    return model


def _chains(module: nn.Module) -> dict[str, Any]:
    """A module's parametrizations, by the name of what they stand for."""
    if not parametrize.is_parametrized(module):
        return {}
    return dict(module.parametrizations.items())  # type: ignore[union-attr, operator]


def _ours(module: nn.Module) -> bool:
    """Whether a module has no parametrizations but those of `hold`."""
    return all(isinstance(each, Kept) for chain in _chains(module).values() for each in chain)


def folded(model: Model) -> Model:
    """A copy of a model as `fold` leaves it, for what does not know of held weights."""
    return fold(copy.deepcopy(model))


@contextmanager
def held(model: nn.Module, kept: Mapping[str, Tensor]) -> Iterator[None]:
    """Weights of a model are zero where they are not kept, while something trains it."""
    hold(model, kept)
    try:
        yield
    finally:
        fold(model)
