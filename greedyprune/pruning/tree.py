"""Tensors inside whatever a module returns: tuples, lists, dictionaries, dataclasses."""

from collections.abc import Callable
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def map_tensors(value: Any, change: Callable[[Any], Any], kind: type = Tensor) -> Any:
    """The same structure with every tensor, or thing of another kind, changed; anything else that it holds stays."""
    if isinstance(value, kind):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        # Not `replace`: a field may be computed, or a class (of outputs of transformers) be a dictionary, too.
        copied = copy(value)
        for field in fields(value):
            object.__setattr__(copied, field.name, map_tensors(getattr(value, field.name), change, kind))
        return copied
    if isinstance(value, dict):
        return type(value)((key, map_tensors(each, change, kind)) for key, each in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(each, change, kind) for each in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(each, change, kind) for each in value)
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor of a structure."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, keep)
    return found


def storages(value: Any) -> dict[int, int]:
    """Bytes of all memory that the tensors of a structure lie in, by its address."""
    with torch._C.DisableTorchFunctionSubclass():
        memory = [tensor.untyped_storage() for tensor in tensors_in(value)]
    return {storage.data_ptr(): storage.nbytes() for storage in memory}
