"""Images to mend with are the same whenever they are gone through, and others in every round of it."""

from collections.abc import Iterable
from itertools import islice

import pytest
import torch

from greedyprune.commands.make_shapes import main as make_shapes
from greedyprune.data.coco import CocoDetection
from greedyprune.models import ModelInfo
from greedyprune.search.lessons import Lessons


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDetection:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes([str(folder), "--train_images", "7", "--val_images", "1", "--workers", "1"])
    return CocoDetection(folder, "train")


def lessons(dataset: CocoDetection, augment: str, seed: int = 0, workers: int = 0) -> Lessons:
    info = ModelInfo(short_side=96, long_side=160)
    return Lessons(dataset, dataset.image_ids[:5], augment, info, 2, seed, torch.device("cpu"), workers)


def images(batches: Iterable[list[torch.Tensor]], number: int = 6) -> list[torch.Tensor]:
    return [image for batch in islice(batches, number) for image in batch]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("augment", ["none", "flips", "detr"])
def test_the_seed_decides_every_batch(dataset: CocoDetection, augment: str) -> None:
    own = lessons(dataset, augment)
    first = images(own)
    assert len(first) == 2 * 5
    torch.manual_seed(7)
    assert equal(images(own), first)
    assert equal(images(lessons(dataset, augment, workers=1)), first)
    assert not equal(images(lessons(dataset, augment, seed=1)), first)


def test_every_round_goes_through_all_images_and_changes_them(dataset: CocoDetection) -> None:
    plain, changed = images(lessons(dataset, "none")), images(lessons(dataset, "flips"))
    for start in (0, 5):
        means = sorted(image.mean().item() for image in plain[start : start + 5])
        assert means == pytest.approx(sorted(image.mean().item() for image in plain[:5]))
    assert not equal(changed[:5], changed[5:])
    assert {image.shape for image in changed} >= {image.shape for image in plain}
    assert isinstance(dataset[0][0], torch.Tensor)  # its own transform is untouched
