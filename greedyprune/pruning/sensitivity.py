"""How much a detector's answer depends on what each token carries: the weights of the closed form's regressions.

An error e in what a site gives to token t raises the detection loss by about e^T J^T H J e / 2, J being the answer's
derivative and H the loss's curvature in the answer (Gauss-Newton). For random signs s, the gradient g of
s^T H^(1/2) (answer) has E[g g^T] = J^T H J (Hutchinson 1990), so that a few backward passes measure it, without labels.
As in K-FAC (Martens and Grosse 2015), E[(x x^T) (g g^T)] over the tokens is taken apart into a metric of the channels,
E[g g^T], and rows weighted by how much each token counts, E[|g|^2 x x^T].
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from greedyprune.answer import Answer
from greedyprune.pruning.answers import BOX_WEIGHT

PROJECTIONS = 2  # random signs for each image
TOKEN_SHARE = 0.9  # of a token's weight is its sensitivity; the rest is the same for all, so that none is forgotten
CHANNEL_SHARE = 0.5  # of the metric of the channels; the rest is the identity


def answer_gradients(answer: Answer, places: Sequence[Tensor], generator: torch.Generator) -> list[list[Tensor]]:
    """Gradients at several places of random projections of the answer, of all layers.

    The curvature of the logits is that of their link; a box counts as much as its query is confident.

    Args:
        answer: the detector's answer, with its graph.
        places: tensors of that graph.
        generator: draws the signs, on the CPU.

    Returns:
        For each projection a gradient for each place.
    """

    def signs(like: Tensor) -> Tensor:
        return torch.randint(0, 2, like.shape, generator=generator).to(like) * 2 - 1

    gradients = []
    for left in reversed(range(PROJECTIONS)):
        projection = torch.zeros((), device=answer.logits.device)
        for layer in answer.layers():
            logits = layer.logits.detach()
            projection = projection + (layer.link.root(logits, signs(logits)) * layer.logits).sum()
            confidence = layer.link.confidence(logits).sqrt()[..., None]
            projection = projection + (BOX_WEIGHT * signs(layer.boxes) * confidence * layer.boxes).sum()
        found = torch.autograd.grad(projection, places, retain_graph=left > 0, allow_unused=True)
        gradients.append([torch.zeros_like(p) if g is None else g for p, g in zip(places, found, strict=True)])
    return gradients


def token_weights(power: Tensor, valid: Tensor) -> Tensor:
    """What each token counts in a regression: by its sensitivity, in every image the same in all.

    Args:
        power: `[..., N]` a token's squared sensitivity.
        valid: `[..., N]` 1 where there is image, 0 at padding; broadcast to `power`.

    Returns:
        `[..., N]` float64 with the sum of `valid` over N.
    """
    power = power.double() * valid
    tokens = valid.double().sum(-1, keepdim=True)
    total = power.sum(-1, keepdim=True)
    even = total <= 0
    share = torch.where(even, valid / tokens.clamp(min=1), power / torch.where(even, 1.0, total))
    return (1 - TOKEN_SHARE) * valid + TOKEN_SHARE * tokens * share


def channel_metric(power: Tensor) -> Tensor:
    """The symmetric square root R of the metric of a site's output channels: an error e counts as |R e|^2.

    Args:
        power: `[dim, dim]` sum of g g^T.
    """
    eye = torch.eye(len(power), dtype=torch.float64, device=power.device)
    scale = power.diagonal().mean()
    if scale <= 0:
        return eye
    values, vectors = torch.linalg.eigh((1 - CHANNEL_SHARE) * eye + CHANNEL_SHARE * power / scale)
    return vectors * values.clamp(min=0).sqrt() @ vectors.mT
