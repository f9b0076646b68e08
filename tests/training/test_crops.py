"""A backbone's first lesson on objects cut out of images."""

from pathlib import Path

import pytest
import torch
from torchvision import tv_tensors

from greedyprune.commands.pretrain_backbone import main
from greedyprune.errors import UserError
from greedyprune.models.backbone import Backbone
from greedyprune.training.crops import LessonOptions, cut_crops, teach
from greedyprune.training.pretrained import load_backbone

from .tiny_training import small_model, write_data


class Squares:
    """Images with one white square each, of a size from 8 to 90 pixels, on black."""

    sides = (8, 20, 36, 90)

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
        white = crop[0] > 200  # outside of the image it is grey
        rows, columns = white.any(1).sum().item(), white.any(0).sum().item()
        low, high = (side - 1, side + 1) if side < 40 else (0.6 * 64 - 1, 0.95 * 64 + 1)
        assert low <= rows <= high
        assert low <= columns <= high
        assert not torch.cat((white[0], white[-1], white[:, 0], white[:, -1])).any()  # nothing is cut off


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


@pytest.mark.parametrize(("flag", "value"), [("--batch_size", "0"), ("--crop", "0"), ("--seed", "-1")])
def test_a_number_out_of_range_is_refused_and_an_older_file_stays(flag: str, value: str, tmp_path: Path) -> None:
    output = tmp_path / "backbone.safetensors"
    output.write_bytes(b"older")
    with pytest.raises(UserError, match=f"argument {flag}: '{value}' is not a whole number"):
        main(["--output", str(output), flag, value])
    with pytest.raises(UserError, match=f"{flag} is {value}, it must be a whole number"):
        LessonOptions(**{flag[2:]: int(value)})
    assert output.read_bytes() == b"older"


def test_weights_that_are_not_finite_never_replace_an_older_file(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    output = tmp_path / "backbone.safetensors"
    output.write_bytes(b"older")
    flags = ["--steps", "3", "--batch_size", "4", "--crop", "32", "--device", "cpu", "--lr", "1e38"]
    with pytest.raises(UserError, match=r"backbone\.safetensors is not written: .* not finite"):
        main(["--coco_path", str(data), "--output", str(output), *flags])
    assert output.read_bytes() == b"older"
