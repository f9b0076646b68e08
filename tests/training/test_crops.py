"""A backbone's first lesson on objects cut out of images."""

from pathlib import Path

import pytest
import torch
from torchvision import tv_tensors

from greedyprune.commands.pretrain_backbone import main
from greedyprune.models.backbone import Backbone
from greedyprune.training.crops import LessonOptions, cut_crops, teach
from greedyprune.training.pretrained import load_backbone

from .tiny_training import small_model, write_data


class Squares:
    """Images with one white square each, of a size from 8 to 90 pixels, on black."""

    sides = (8, 20, 50, 90)

    def __len__(self) -> int:
        return len(self.sides)

    def __getitem__(self, index: int):
        side = self.sides[index]
        image = torch.zeros(3, 120, 100, dtype=torch.uint8)
        image[:, 10 : 10 + side, 5 : 5 + side] = 255
        box = torch.tensor([[5.0, 10.0, 5.0 + side, 10.0 + side]])
        boxes = tv_tensors.BoundingBoxes(box, format="XYXY", canvas_size=(120, 100))
        return tv_tensors.Image(image), {"boxes": boxes, "labels": torch.tensor([index])}


def test_every_object_is_whole_in_its_crop_at_its_size_or_scaled_down_to_fit() -> None:
    torch.manual_seed(0)
    crops, labels = cut_crops(Squares(), 64)
    assert labels.tolist() == [0, 1, 2, 3]
    for crop, side in zip(crops, Squares.sides, strict=True):
        shown = min(side, 0.95 * 64)
        area = (crop[0] > 127).sum().item()
        assert (0.6 * 64) ** 2 * 0.9 <= area <= (shown + 1) ** 2 if side > 60 else abs(area - side**2) <= 2 * side
        border = torch.cat((crop[0, 0], crop[0, -1], crop[0, :, 0], crop[0, :, -1]))
        assert border.max() < 200 or side > 40  # what is cut off would be white at the border


def test_a_backbone_learns_to_tell_textures() -> None:
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    crops = torch.randint(0, 255, (64, 3, 32, 32), dtype=torch.uint8)
    crops[labels == 1] = crops[labels == 1][:, :, :1, :1]  # plain colours against noise
    seen: list[float] = []
    options = LessonOptions(steps=30, batch_size=16, lr=1e-3, crop=32)
    accuracy = teach(Backbone("small"), crops, labels, 2, options, lambda step, loss, right: seen.append(right))
    assert accuracy > 0.8
    assert seen == [accuracy]


def test_the_tool_writes_what_training_starts_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path / "data")
    output = tmp_path / "backbone.safetensors"
    flags = ["--steps", "2", "--batch_size", "4", "--crop", "32", "--device", "cpu"]
    assert main(["--coco_path", str(data), "--output", str(output), *flags]) == 0
    model = small_model()
    before = model.backbone[0].body.conv1.weight.clone()
    load_backbone(model, output)
    assert not torch.equal(before, model.backbone[0].body.conv1.weight)
