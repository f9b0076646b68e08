"""Weighted second moments of activations over any number of images: all that the closed form keeps of them."""

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of weighted rows that arrive in parts, in float64.

    Args:
        width: channels of a row.
        device: where the sums are kept.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.weight = 0.0
        self.mean = torch.zeros(width, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, rows: Tensor, weights: Tensor) -> None:
        """Count rows in (Chan et al. 1979: the scatter about the mean, merged pairwise).

        Args:
            rows: `[n, width]`; rows of weight 0 may hold anything finite.
            weights: `[n]`, at least 0.
        """
        weights = weights.double()
        own = float(weights.sum())
        if not own:
            return
        part = rows.double()
        mean = weights @ part / own
        part = part - mean
        apart = mean - self.mean
        total = self.weight + own
        self.scatter += (part * weights[:, None]).T @ part + torch.outer(apart, apart) * (self.weight * own / total)
        self.mean += apart * (own / total)
        self.weight = total

    @property
    def covariance(self) -> Tensor:
        """`[width, width]`; zeros before the first row."""
        return self.scatter / self.weight if self.weight else self.scatter


class HeadMoments:
    """Second moments of every head's rows, as they are or about the mean of each image.

    Softmax ignores what is constant over the keys of an image, so keys count about their mean.

    Args:
        heads: attention heads.
        width: channels of one head.
        device: where the sums are kept.
    """

    def __init__(self, heads: int, width: int, device: torch.device | str = "cpu") -> None:
        self.weight = torch.zeros(heads, dtype=torch.float64, device=device)
        self.total = torch.zeros(heads, width, width, dtype=torch.float64, device=device)

    def add(self, rows: Tensor, weights: Tensor, centred: bool) -> None:
        """Count rows in.

        Args:
            rows: `[B, heads, N, width]`.
            weights: `[B, heads, N]`, at least 0; padding has 0.
            centred: subtract the weighted mean of each image's rows.
        """
        part, weights = rows.double(), weights.double()
        if centred:
            shares = weights / weights.sum(2, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
            part = part - torch.einsum("bhni,bhn->bhi", part, shares)[:, :, None]
        self.total += torch.einsum("bhni,bhnj->hij", part * weights[..., None], part)
        self.weight += weights.sum((0, 2))

    @property
    def moment(self) -> Tensor:
        """`[heads, width, width]`; zeros before the first row."""
        return self.total / self.weight.clamp(min=torch.finfo(torch.float64).tiny)[:, None, None]
