"""`semi_structured`: two of every four neighbouring weights are zero, which GPUs since Ampere make use of.

Mishra et al. 2021. The four are of the input channels: of a linear layer's row, and of a convolution's at each tap.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.sparse import to_sparse_semi_structured

from greedyprune.classical.base import Method, Pruned, Subject
from greedyprune.classical.weight import with_zeros
from greedyprune.classical.weights import weights_of
from greedyprune.errors import UserError
from greedyprune.ranges import Range

GROUP, LEFT = 4, 2
HALF = Range(float, 0.5, 0.5)
CAPABILITY = (8, 0)  # Ampere
_ROWS, _COLUMNS = 32, 64  # a float16 weight's sizes must be multiples of these for either of torch's kernels


@dataclass(frozen=True)
class SemiStructured(Method):
    """The two largest of every four stay; a weight whose inputs are no multiple of four stays as it is."""

    amounts = HALF
    name: str = "semi_structured"
    label: str = "two of every four weights, as GPUs make use of them"

    def prune(self, subject: Subject, amount: float) -> Pruned:
        weights = {n: tensor for n, tensor in weights_of(subject).items() if tensor.shape[1] % GROUP == 0}
        return with_zeros(weights, self.kept(weights))

    def kept(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Where weights stay, bool of their shapes; of equal ones the first."""
        return {name: _largest(tensor) for name, tensor in weights.items()}


def _largest(weight: Tensor) -> Tensor:
    groups = weight.abs().movedim(1, -1).unflatten(-1, (-1, GROUP))  # [out, ..., in / 4, 4]
    best = groups.sort(dim=-1, descending=True, stable=True).indices[..., :LEFT]
    return torch.zeros_like(groups, dtype=torch.bool).scatter(-1, best, True).flatten(-2).movedim(-1, 1).contiguous()


class SparseLinear(nn.Module):
    """A linear layer whose weight is stored as its two of four, and multiplied in float16.

    Args:
        layer: with a weight `[out, in]` of such zeros, on a GPU.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(to_sparse_semi_structured(layer.weight.detach().half()), requires_grad=False)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().half(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x `[..., in]` -> `[..., out]`, of x's kind of number."""
        rows = x.reshape(-1, x.shape[-1]).half()  # the kernels take matrices
        return F.linear(rows, self.weight, self.bias).to(x.dtype).view(*x.shape[:-1], -1)


def accelerated(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy for inference in which linear layers with two of four zeros run as such.

    Args:
        model: in eval mode, on a GPU.

    Returns:
        The copy, and the names of the layers that do; a layer that is of another size runs as before.

    Raises:
        UserError: the device has no such instructions, or no layer is of that kind.
    """
    device = next(model.parameters()).device
    if not _runs(device):
        raise UserError(
            f"2:4 sparsity runs on NVIDIA GPUs of compute capability {CAPABILITY[0]}.{CAPABILITY[1]} and above, and "
            f"the model is on {device}; elsewhere its zeros are computed with as any number"
        )
    copied = copy.deepcopy(model)
    found = [name for name, each in copied.named_modules() if isinstance(each, nn.Linear) and _fits(each.weight)]
    if not found:
        raise UserError(
            f"no linear layer has two zeros of every four and sizes that are multiples of {_ROWS} and {_COLUMNS}; "
            "prune with semi_structured first"
        )
    for name in found:
        owner, _, attribute = name.rpartition(".")
        layer = copied.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        setattr(copied.get_submodule(owner), attribute, SparseLinear(layer))
    return copied, found


def _runs(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY


def _fits(weight: Tensor) -> bool:
    if weight.shape[0] % _ROWS or weight.shape[1] % _COLUMNS:
        return False
    return bool(((weight.unflatten(1, (-1, GROUP)) != 0).sum(-1) <= LEFT).all())
