"""Weights that stay zero while a model is trained, in any loop, with any optimizer."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

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
    """
    for name, each in kept.items():
        module, attribute = place_of(name)
        owner = model.get_submodule(module)
        weight = getattr(owner, attribute)
        parametrize.register_parametrization(owner, attribute, Kept(each.to(weight.device)))


def fold(model: Model) -> Model:
    """The model itself, its held weights plain parameters with zeros again."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for name, chain in list(module.parametrizations.items()):  # type: ignore[union-attr, operator]
                if isinstance(chain[0], Kept):
                    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return model


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
