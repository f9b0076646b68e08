"""Percentiles of very many numbers."""

import numpy as np
from torch import Tensor


def percentile(values: Tensor, share: float) -> float:
    """The number below which a share of the values lies, linear between two of them, as numpy's percentile.

    The place is found in float64: with float32, as numpy takes it for float32 values, it is off by up to two places in
    50 million.

    Args:
        values: any shape, at least one.
        share: 0..1.
    """
    flat = values.detach().flatten().cpu().numpy()
    place = share * (len(flat) - 1)
    low = int(place)
    pair = np.partition(flat, [low, min(low + 1, len(flat) - 1)])[[low, min(low + 1, len(flat) - 1)]]
    first, second = (float(each) for each in pair)
    return first + (place - low) * (second - first)
