"""Second moments of activations over any number of images: all that the closed form keeps of them."""

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of rows that arrive in parts, in float64.

    Args:
        width: channels of a row.
        device: where the sums are kept.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.rows = 0
        self.mean = torch.zeros(width, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, rows: Tensor) -> None:
        """Count `[n, width]` rows in (Chan et al. 1979: the scatter about the mean, merged pairwise)."""
        if not len(rows):
            return
        part = rows.double()
        mean = part.mean(0)
        part = part - mean
        apart = mean - self.mean
        total = self.rows + len(rows)
        self.scatter += part.T @ part + torch.outer(apart, apart) * (self.rows * len(rows) / total)
        self.mean += apart * (len(rows) / total)
        self.rows = total

    @property
    def covariance(self) -> Tensor:
        """`[width, width]`; zeros before the first row."""
        return self.scatter / max(self.rows, 1)


class HeadMoments:
    """Uncentred second moments of every head's rows, and those about the mean of each image.

    Softmax ignores what is constant over the keys of an image, so keys count about their mean.

    Args:
        heads: attention heads.
        width: channels of one head.
        device: where the sums are kept.
    """

    def __init__(self, heads: int, width: int, device: torch.device | str = "cpu") -> None:
        self.rows = 0
        self.total = torch.zeros(heads, width, width, dtype=torch.float64, device=device)

    def add(self, rows: Tensor, valid: Tensor | None, centred: bool) -> None:
        """Count rows in.

        Args:
            rows: `[B, heads, N, width]`.
            valid: `[B, N]` bool, False where a row is padding; None: all rows count.
            centred: subtract the mean of each image's rows.
        """
        part = rows.double()
        if valid is not None:
            part = part * valid[:, None, :, None]
        counts = torch.full((len(part),), part.shape[2], device=part.device) if valid is None else valid.sum(1)
        if centred:
            mean = part.sum(2, keepdim=True) / counts.clamp(min=1)[:, None, None, None]  # [B, heads, 1, width]
            part = part - mean
            if valid is not None:
                part = part * valid[:, None, :, None]
        self.total += torch.einsum("bhni,bhnj->hij", part, part)
        self.rows += int(counts.sum())

    @property
    def moment(self) -> Tensor:
        """`[heads, width, width]`; zeros before the first row."""
        return self.total / max(self.rows, 1)
