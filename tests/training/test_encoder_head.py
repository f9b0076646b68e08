"""The head over the encoder: every token's owner, and nothing of the head in what is saved."""

import math

import pytest
import torch

from greedyprune import build_model, load_model
from greedyprune.boxes import cxcywh_to_xyxy, generalized_iou
from greedyprune.models import ImageBatch, pad_images, save_checkpoint
from greedyprune.models.criterion import focal_loss
from greedyprune.training.encoder_head import WithEncoderHead, token_loss

STRIDE, CLASSES = 16, 3


def owner_of(x: float, y: float, width: float, height: float, target: dict[str, torch.Tensor]) -> int | None:
    """By a loop: the smallest object whose box, at least a cell large, covers a point; x, y in pixels."""
    best = None
    for index, (cx, cy, w, h) in enumerate(target["boxes"].tolist()):
        half_w, half_h = max(w * width, STRIDE) / 2, max(h * height, STRIDE) / 2
        covers = abs(x - cx * width) <= half_w and abs(y - cy * height) <= half_h
        if covers and (best is None or w * h < math.prod(target["boxes"][best, 2:].tolist())):
            best = index
    return best


def slow_loss(answers: torch.Tensor, images: ImageBatch, targets: list[dict[str, torch.Tensor]]) -> float:
    columns = -(-images.tensors.shape[-1] // STRIDE)
    total, covered = 0.0, 0
    for i, target in enumerate(targets):
        shown = torch.ones(images.tensors.shape[-2:], dtype=torch.bool)
        if images.padding is not None:
            shown = ~images.padding[i]
        height, width = int(shown[:, 0].sum()), int(shown[0].sum())
        for token, answer in enumerate(answers[i]):
            x, y = (token % columns + 0.5) * STRIDE, (token // columns + 0.5) * STRIDE
            if x >= width or y >= height:
                continue
            onehot = torch.zeros(CLASSES)
            if (owner := owner_of(x, y, width, height, target)) is not None:
                onehot[target["labels"][owner]] = 1
                left, top, right, bottom = answer[CLASSES:].sigmoid()
                found = torch.stack((x / width - left, y / height - top, x / width + right, y / height + bottom))
                wanted = cxcywh_to_xyxy(target["boxes"][owner])
                total += float(2 * (found - wanted).abs().sum() + 2 * (1 - generalized_iou(found, wanted)))
                covered += 1
            total += float(focal_loss(answer[:CLASSES], onehot, 0.25).sum())
    return total / max(covered, 1)


@pytest.mark.parametrize("sizes", [[(96, 128), (80, 112)], [(64, 64), (64, 64)]])
def test_the_loss_is_that_of_a_loop_over_tokens(sizes: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    images = pad_images([torch.randn(3, *size) for size in sizes])
    boxes = torch.tensor([[0.5, 0.5, 0.9, 0.9], [0.5, 0.6, 0.3, 0.3], [0.21, 0.33, 0.05, 0.06]])
    targets = [
        {"labels": torch.tensor([0, 2, 1]), "boxes": boxes},
        {"labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)},
    ]
    tokens = math.prod(-(-side // STRIDE) for side in images.tensors.shape[-2:])
    answers = torch.randn(2, tokens, CLASSES + 4)
    fast = token_loss(answers, images, targets, STRIDE).item()
    assert fast == pytest.approx(slow_loss(answers, images, targets), rel=1e-4)


def test_tokens_of_several_levels_count_level_by_level() -> None:
    torch.manual_seed(0)
    model = build_model(
        "dn_deformable_detr", num_classes=3, backbone="small", hidden_dim=32, heads=2, enc_layers=1, dec_layers=1,
        ffn_dim=16, num_queries=4, num_feature_levels=3,
    )  # fmt: skip
    both = WithEncoderHead(model).train()
    targets = [{"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]])}]
    images = pad_images([torch.randn(3, 60, 90)])
    memory = model.transformer.encoder(model.features(images))
    parts = both.head(memory).split([8 * 12, 4 * 6, 2 * 3], dim=1)
    wanted = [token_loss(part, images, targets, stride) for part, stride in zip(parts, model.strides, strict=True)]
    _, found = both(images, None, None, targets)
    assert found.item() == pytest.approx(torch.stack(wanted).mean().item(), rel=1e-3)


def test_the_head_teaches_the_backbone_and_is_not_saved(tmp_path) -> None:
    torch.manual_seed(0)
    model = build_model(
        "dn_detr", num_classes=3, backbone="small", hidden_dim=16, heads=2, enc_layers=1, dec_layers=1, ffn_dim=16,
        num_queries=4,
    )  # fmt: skip
    both = WithEncoderHead(model).train()
    targets = [{"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]])}]
    _, loss = both(pad_images([torch.randn(3, 64, 64)]), None, None, targets)
    loss.backward()
    assert model.backbone[0].body.conv1.weight.grad.abs().sum() > 0
    assert model.class_embed.weight.grad is None
    save_checkpoint(model, tmp_path / "model.safetensors")
    assert load_model(tmp_path / "model.safetensors").state_dict().keys() == model.state_dict().keys()
    assert not any(key.startswith("head") for key in model.state_dict())
