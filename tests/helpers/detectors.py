"""Small detectors of every kind, in which everything has a say, and a batch for them."""

import torch

from greedyprune import build_model
from greedyprune.models import Detector

KINDS = {
    "dn_detr": ("dn_detr", {}),
    "patterns": ("dn_detr", {"num_patterns": 2}),
    "deformable encoder": ("dn_deformable_encoder_detr", {"num_patterns": 2}),
    "deformable encoder, level by level": ("dn_deformable_encoder_detr", {"level_attention": True}),
    "dn deformable": ("dn_deformable_detr", {}),
    "dn deformable, two stages": ("dn_deformable_detr", {"two_stage": True}),
    "deformable": ("deformable_detr", {}),
    "deformable, refined": ("deformable_detr", {"with_box_refine": True}),
    "deformable, two stages": ("deformable_detr", {"with_box_refine": True, "two_stage": True}),
}
SHAPE = {
    "num_classes": 4,
    "backbone": "small",
    "hidden_dim": 32,
    "heads": 4,
    "enc_layers": 2,
    "dec_layers": 3,
    "ffn_dim": 40,
    "num_queries": 9,
}
IMAGES = [torch.randn(3, *size, generator=torch.Generator().manual_seed(0)) for size in ((64, 96), (48, 80))]
TARGETS = [
    {"labels": torch.tensor([1, 3]), "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.6, 0.6, 0.3, 0.2]])},
    {"labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])},
]


def stirred(model: Detector, amount: float = 0.1) -> Detector:
    """The same detector in eval mode, its weights moved at random: heads and offsets start as zeros."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * amount)
    return model.eval()


def detector(kind: str = "dn_detr", widths=None, **more) -> Detector:
    """Always the same weights."""
    torch.manual_seed(1)
    name, options = KINDS[kind]
    return stirred(build_model(name, widths, **{**SHAPE, **options, **more}))
