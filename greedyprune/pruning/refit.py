"""Ridge regression: the weights that read the kept channels are solved again to give the dense output."""

import torch
from torch import Tensor

RIDGE = 1e-5


def refit(covariance: Tensor, mean: Tensor, kept: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and bias that give `weight @ x + bias` from `kept @ x` with the least squared error.

    W' = W C K^T (K C K^T + ridge)^-1 and b' = b + (W - W' K) mean, with C the covariance of x: the ridge pulls
    towards nothing, relative to the mean variance of the kept channels.

    Args:
        covariance: `[n, n]` float64 of x.
        mean: `[n]` of x.
        kept: `[r, n]` rows of a basis, or `[r]` indices of channels.
        weight: `[dim, n]` what reads x now.
        bias: `[dim]`.

    Returns:
        `[dim, r]` and `[dim]`, float64.
    """
    weight, bias = weight.double(), bias.double()
    if kept.dim() == 1:
        cross, within, kept_mean = covariance[:, kept], covariance[kept][:, kept], mean[kept]
    else:
        kept = kept.double()
        cross = covariance @ kept.mT  # [n, r]
        within, kept_mean = kept @ cross, kept @ mean
    scale = within.diagonal().mean().clamp(min=torch.finfo(within.dtype).tiny)
    eye = torch.eye(len(within), dtype=within.dtype, device=within.device)
    solved = torch.linalg.solve((within + within.mT) / 2 + RIDGE * scale * eye, (weight @ cross).mT).mT
    return solved, bias + weight @ mean - solved @ kept_mean
