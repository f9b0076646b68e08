"""Rows of numbers that overlap and fade."""

import torch
from torch import Tensor


def correlated(rows: int, width: int, seed: int, heads: int = 1) -> Tensor:
    """`[heads, rows, width]` float64 rows whose channels overlap and fade."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(heads, width, width, generator=draw, dtype=torch.float64)
    fading = 0.6 ** torch.arange(width, dtype=torch.float64)
    return torch.randn(heads, rows, width, generator=draw, dtype=torch.float64) * fading @ mix
