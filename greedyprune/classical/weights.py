"""Which tensors single weights are pruned of: those of convolutions and linear layers."""

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from greedyprune.classical.base import Subject
from greedyprune.sites import AttentionSite, HiddenSite

LAYERS = (nn.Linear, _ConvNd)


def weights_of(subject: Subject) -> dict[str, Tensor]:
    """The weights by name, each once; biases, norms and embeddings are none.

    These are the weights of linear layers and convolutions, and what else of more than one dimension a site's channels
    are sliced out of, as the stacked projections of an attention.
    """
    names = [f"{name}.weight" for name, module in subject.model.named_modules() if isinstance(module, LAYERS)]
    for site in subject.sites:
        if isinstance(site, (AttentionSite, HiddenSite)):
            names += [part.name for part in site.slices]
    parameters = dict(subject.model.named_parameters(remove_duplicate=False))
    found: dict[int, tuple[str, Tensor]] = {}
    for name in names:
        tensor = parameters.get(name)
        if tensor is not None and tensor.dim() > 1:
            found.setdefault(id(tensor), (name, tensor.detach()))
    return dict(found.values())


def nonzero(model: nn.Module) -> int:
    """Parameters that are not zero, each once."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in model.parameters())


def has_zeros(model: nn.Module) -> bool:
    """Whether any parameter is zero."""
    return nonzero(model) < sum(parameter.numel() for parameter in model.parameters())
