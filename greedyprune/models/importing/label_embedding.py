"""What DN-DETR has and DAB-DETR has not."""

import torch
from torch import Tensor


def label_embedding(classes: int, dim: int) -> Tensor:
    """The label embedding with which a DN-DETR answers as a DAB-DETR, `[classes + 1, dim - 1]`.

    The queries' content is the row for "unknown" there, and zeros in DAB-DETR. The rows for the classes, which only
    denoising reads, are random, and the same every time.
    """
    rows = torch.randn(classes + 1, dim - 1, generator=torch.Generator().manual_seed(0))
    rows[classes] = 0
    return rows
