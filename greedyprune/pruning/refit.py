"""Ridge regression: the weights that read the kept channels are solved again to give the dense output."""

import torch
from torch import Tensor

RIDGE = 1e-5
DEAD = 1e-12  # of the mean variance of all channels


def refit(
    covariance: Tensor, mean: Tensor, kept: Tensor, weight: Tensor, bias: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights and bias that give `weight @ x + bias` from `kept @ x` with the least squared error.

    W' = W0 + (W C K^T - W0 K C K^T) (K C K^T + ridge)^-1 and b' = b + (W - W' K) mean, with C the covariance of x: the
    ridge, relative to the mean variance of the kept channels, pulls towards weights W0, so that where W0 is exact
    nothing changes.

    Args:
        covariance: `[n, n]` float64 of x.
        mean: `[n]` of x.
        kept: `[r, n]` rows of a basis, or `[r]` indices of channels.
        weight: `[dim, n]` what reads x now.
        bias: `[dim]`.
        start: `[dim, r]` W0.

    Returns:
        `[dim, r]` and `[dim]`, float64.
    """
    weight, bias, start = weight.double(), bias.double(), start.double()
    if kept.dim() == 1:
        cross, within, kept_mean = covariance[:, kept], covariance[kept][:, kept], mean[kept]
    else:
        kept = kept.double()
        cross = covariance @ kept.mT  # [n, r]
        within, kept_mean = kept @ cross, kept @ mean
    within = (within + within.mT) / 2
    # Channels that vary by rounding alone have nothing to tell.
    least = (DEAD * covariance.diagonal().mean()).clamp(min=torch.finfo(within.dtype).tiny / RIDGE)
    scale = torch.maximum(within.diagonal().mean(), least)
    eye = torch.eye(len(within), dtype=within.dtype, device=within.device)
    missing = weight @ cross - start @ within  # [dim, r]
    solved = start + torch.linalg.solve(within + RIDGE * scale * eye, missing.mT).mT
    return solved, bias + weight @ mean - solved @ kept_mean
