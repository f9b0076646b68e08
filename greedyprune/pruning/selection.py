"""Forward selection of channels whose span gives the dense output best."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """What one reader makes of the channels that are chosen among.

    Attributes:
        covariance: `[n, n]` float64 of its input, n = channels * taps, a channel's taps side by side.
        weight: `[dim, n]` what reads them.
    """

    covariance: Tensor
    weight: Tensor


def forward_selection(readings: Sequence[Reading], channels: int) -> tuple[Tensor, Tensor]:
    """The order in which channels, read again by least squares, explain most of what all readers give.

    Orthogonal matching pursuit on moments alone, with the taps of a channel as a block (Eldar et al. 2010): the channel
    that comes next takes most of the readers' output variance that is left, and what it explains of all others is
    taken out of the moments (a step of pivoted block Cholesky factorisation). A reader of n inputs costs
    O(n^3 + n^2 dim) altogether.

    Args:
        readings: of every reader.
        channels: how many there are.

    Returns:
        `order` `[channels]` int64, best first, and `gain` `[channels]`, the output variance that each took when it was
        chosen. Channels that never vary, or that others express fully, come last, by number.
    """
    pursuits = [(_Scalar if len(each.covariance) == channels else _Blocks)(each, channels) for each in readings]
    order: list[int] = []
    gains: list[float] = []
    taken = torch.zeros(channels, dtype=torch.bool, device=readings[0].covariance.device)
    while True:
        gain = torch.stack([pursuit.gains(taken) for pursuit in pursuits]).sum(0)
        free = torch.stack([pursuit.free for pursuit in pursuits]).any(0) & ~taken
        if not free.any():
            break
        best = int(torch.where(free, gain, -1.0).argmax())
        for pursuit in pursuits:
            pursuit.take(best)
        order.append(best)
        gains.append(float(gain[best]))
        taken[best] = True
    rest = sorted(set(range(channels)) - set(order))
    return torch.tensor(order + rest), torch.tensor(gains + [0.0] * len(rest), dtype=torch.float64)


class _Scalar:
    """The pursuit of a reader with one tap: scalars instead of blocks, which is what makes it fast.

    Attributes:
        free: `[channels]` bool, what still has variance that is not explained.
    """

    def __init__(self, reading: Reading, channels: int) -> None:
        covariance = reading.covariance
        self.covariance = covariance
        self.left = covariance.diagonal().clone()  # variance of each channel that is not explained yet
        self.floor = self.left.clamp(min=0).max() * 1e-10
        self.reach = covariance @ reading.weight.double().mT  # [n, dim] covariance with what is left of the output
        self.factor = torch.zeros_like(covariance)
        self.steps = 0
        self.free = self.left > self.floor

    def gains(self, taken: Tensor) -> Tensor:
        """`[channels]` output variance that each would take."""
        gain = self.reach.square().sum(1) / self.left.clamp(min=self.floor)
        return torch.where(self.free & ~taken, gain, 0.0)

    def take(self, best: int) -> None:
        if not self.free[best]:
            return
        column = self.covariance[:, best] - self.factor[:, : self.steps] @ self.factor[best, : self.steps]
        column = column / column[best].sqrt()  # [n]
        self.factor[:, self.steps] = column
        self.reach -= torch.outer(column, self.reach[best] / column[best])
        self.left = self.left - column.square()
        self.steps += 1
        self.free &= self.left > self.floor
        self.free[best] = False


class _Blocks:
    """The pursuit of a reader with several taps; see `_Scalar`."""

    def __init__(self, reading: Reading, channels: int) -> None:
        covariance = self.covariance = reading.covariance
        self.taps = taps = len(covariance) // channels
        self.floor = covariance.diagonal().clamp(min=0).max() * 1e-10
        self.own = covariance.view(channels, taps, channels, taps).diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()
        self.ridge = self.floor * torch.eye(taps, dtype=covariance.dtype, device=covariance.device)
        self.reach = (covariance @ reading.weight.double().mT).unflatten(0, (channels, taps))  # [channels, taps, dim]
        self.factor = torch.zeros_like(covariance)
        self.steps = 0
        self.free = self._varies()

    def _varies(self) -> Tensor:
        return self.own.diagonal(dim1=1, dim2=2).amax(1) > self.floor

    def gains(self, taken: Tensor) -> Tensor:
        """`[channels]` output variance that each would take."""
        left = torch.nonzero(self.free & ~taken).flatten()
        result = torch.zeros(len(self.free), dtype=torch.float64, device=self.free.device)
        if len(left):
            lower = torch.linalg.cholesky(self.own[left] + self.ridge)  # [left, taps, taps]
            reach = self.reach[left]
            result[left] = (torch.cholesky_inverse(lower) * torch.bmm(reach, reach.mT)).sum((1, 2))
        return result

    def take(self, best: int) -> None:
        if not self.free[best]:
            return
        taps = self.taps
        lower = torch.linalg.cholesky(self.own[best] + self.ridge)
        rows, done = slice(best * taps, best * taps + taps), slice(0, self.steps * taps)
        column = self.covariance[:, rows] - self.factor[:, done] @ self.factor[rows, done].mT  # [n, taps]
        column = torch.linalg.solve_triangular(lower.mT, column, upper=True, left=False)
        explained = torch.linalg.solve_triangular(lower, self.reach[best], upper=False)  # [taps, dim]
        self.factor[:, done.stop : done.stop + taps] = column
        blocks = column.unflatten(0, (len(self.free), taps))  # [channels, taps, taps]
        self.reach -= (column @ explained).view_as(self.reach)
        self.own -= blocks @ blocks.mT
        self.steps += 1
        self.free &= self._varies()
        self.free[best] = False
