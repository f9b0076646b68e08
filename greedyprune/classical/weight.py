"""`weight`, `weight_per_layer`: single weights of small magnitude become zero; every tensor stays as large as it is."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from greedyprune.classical.base import Method, Pruned, Subject
from greedyprune.classical.percentile import percentile
from greedyprune.classical.weights import weights_of
from greedyprune.sites import Change


@dataclass(frozen=True)
class Weight(Method):
    """Weights whose magnitude is above the percentile stay (Han et al. 2015); those that equal it go.

    Attributes:
        per_layer: every tensor has a percentile of its own; else there is one of all weights together.
    """

    name: str = "weight"
    label: str = "single weights of small magnitude, all layers against one threshold"
    per_layer: bool = False

    def prune(self, subject: Subject, amount: float) -> Pruned:
        weights = weights_of(subject)
        return with_zeros(weights, self.kept(weights, amount) if amount else {})

    def kept(self, weights: Mapping[str, Tensor], amount: float) -> dict[str, Tensor]:
        """Where weights stay, bool of their shapes."""
        if self.per_layer:
            return {name: tensor.abs() > percentile(tensor.abs(), amount) for name, tensor in weights.items()}
        threshold = percentile(torch.cat([tensor.abs().flatten().cpu() for tensor in weights.values()]), amount)
        return {name: tensor.abs() > threshold for name, tensor in weights.items()}


def with_zeros(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> Pruned:
    """Weights with zeros where they are not kept."""
    return Pruned(Change({name: torch.where(each, weights[name], 0.0) for name, each in kept.items()}), kept)
