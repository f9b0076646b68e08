"""Forward selection of channels whose span gives the dense output best."""

import torch
from torch import Tensor


def forward_selection(covariance: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The order in which channels, read again by least squares, explain most of `weight @ x`.

    Orthogonal matching pursuit on moments alone: the channel that comes next takes most of the output's variance that
    is left, and what it explains of all others is taken out of the moments (a step of pivoted Cholesky
    factorisation). n channels cost O(n^3 + n^2 dim) altogether.

    Args:
        covariance: `[n, n]` float64 of the channels x.
        weight: `[dim, n]` what reads them.

    Returns:
        `order` `[n]` int64, best first, and `gain` `[n]`, the output variance that each took when it was chosen.
        Channels that never vary, or that others express fully, come last, by number.
    """
    n = len(covariance)
    left = covariance.diagonal().clone()  # variance of each channel that is not explained yet
    floor = left.clamp(min=0).max() * 1e-10
    reach = covariance @ weight.double().mT  # [n, dim] covariance of each channel with what is left of the output
    factor = torch.zeros(n, n, dtype=covariance.dtype, device=covariance.device)
    free = left > floor
    order: list[int] = []
    gains: list[float] = []
    while True:
        gain = torch.where(free, reach.square().sum(1) / left.clamp(min=floor), -1.0)
        best = int(gain.argmax())
        if gain[best] < 0:
            break
        step = len(order)
        column = covariance[:, best] - factor[:, :step] @ factor[best, :step]
        column = column / column[best].sqrt()  # [n]
        factor[:, step] = column
        reach -= torch.outer(column, reach[best] / column[best])
        left = left - column.square()
        order.append(best)
        gains.append(float(gain[best]))
        free[best] = False
        free &= left > floor
    rest = sorted(set(range(n)) - set(order))
    return torch.tensor(order + rest), torch.tensor(gains + [0.0] * len(rest), dtype=torch.float64)
