"""Files of weights: whole and finite, or not written at all."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.files import atomic_write


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as one safetensors file; an older file stays until the new one is whole.

    Args:
        path: where.
        tensors: by name, on any device.
        metadata: text to keep in the file.

    Raises:
        UserError: see `check_finite`.
    """
    check_finite(path, tensors)
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    atomic_write(path, safetensors.torch.save(own, metadata))


def check_finite(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Check weights that are about to be written.

    Raises:
        UserError: one of them holds nan or infinity; names the file and the tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{path} is not written: {name} holds values that are not finite; "
                "train with a lower --lr, or start from other weights"
            )
