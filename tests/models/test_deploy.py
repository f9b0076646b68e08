"""A deployed detector answers as the model does, with its batch norms gone."""

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from greedyprune import build_model
from greedyprune.models import pad_images
from greedyprune.models.deploy import deployed

IMAGES = [torch.randn(3, 96, 128), torch.randn(3, 80, 90)]


def norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)]


@pytest.mark.parametrize(
    ("backbone", "cfgs"),
    [
        ("small", None),
        ("small", [[[16, 24]], [[16, 8, 8]], [[48], [16], [96], [32], [144], [80]]]),
        ("resnet18", None),
        ("resnet50", None),
    ],
)
def test_a_deployed_detector_gives_the_same_answers(backbone: str, cfgs: list | None) -> None:
    torch.manual_seed(0)
    model = build_model(
        "dn_detr", cfgs, num_classes=3, backbone=backbone, hidden_dim=32, heads=4, enc_layers=1, dec_layers=1,
        ffn_dim=24, num_queries=5,
    ).eval()  # fmt: skip
    for norm in norms(model):
        for name, tensor in norm.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if name in ("weight", "running_var") else tensor.normal_(std=0.2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = deployed(model)
    with torch.inference_mode():
        own, other = model(IMAGES), fast(IMAGES)
        features, folded = (each.features(pad_images(IMAGES)).tokens for each in (model, fast))
    assert torch.allclose(folded, features, rtol=1e-4, atol=1e-4 * features.abs().max().item())
    for key in ("logits", "boxes"):
        assert torch.allclose(getattr(other, key), getattr(own, key), atol=1e-4)
    assert norms(model)
    assert not norms(fast)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert fast.class_embed.weight is model.class_embed.weight


def test_a_detector_whose_weights_are_new_is_deployed_for_images_of_any_size() -> None:
    """Its offsets and boxes start as zeros, and are the same for every image: of one number of tokens."""
    torch.manual_seed(0)
    shape = {"hidden_dim": 32, "heads": 4, "enc_layers": 1, "dec_layers": 1, "ffn_dim": 24, "num_queries": 5}
    for name in ("deformable_detr", "dn_deformable_detr", "dn_deformable_encoder_detr", "dn_detr"):
        model = build_model(name, num_classes=3, backbone="small", **shape).eval()
        fast = deployed(model)
        with torch.inference_mode():
            for images in (IMAGES, [torch.randn(3, 96, 160)]):
                assert torch.allclose(fast(images).boxes, model(images).boxes, atol=1e-4), name
