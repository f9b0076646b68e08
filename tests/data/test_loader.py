import pytest
import torch
from torch.utils.data import Dataset, Subset

from greedyprune.data import CocoDetection, make_loader, train_transform


@pytest.fixture
def train(shapes):
    return CocoDetection(shapes, "train")


@pytest.fixture
def few(train):
    return Subset(train, range(18))


def ids(loader):
    return [target["image_id"] for _, targets in loader for target in targets]


def test_batches_keep_images_of_different_sizes_apart(train):
    images, targets = next(iter(make_loader(train, 30)))
    assert len(images) == len(targets) == 30
    assert len({tuple(image.shape) for image in images}) > 1


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_comes_once_and_in_order(train, workers):
    loader = make_loader(Subset(train, [7, 3, 11, 0, 2]), 2, num_workers=workers)
    expected = [train.image_ids[index] for index in (7, 3, 11, 0, 2)]
    assert ids(loader) == ids(loader) == expected


def test_a_seed_decides_the_order_of_all_epochs(train, few):
    one, two = (make_loader(few, 8, shuffle=True, seed=4) for _ in range(2))
    first, second = ids(one), ids(one)
    assert sorted(first) == sorted(second) == train.image_ids[:18]
    assert first != second
    assert (ids(two), ids(two)) == (first, second)
    assert ids(make_loader(few, 8, shuffle=True, seed=5)) != first


def test_a_short_last_batch_can_be_left_out(few):
    assert [len(images) for images, _ in make_loader(few, 8)] == [8, 8, 2]
    assert [len(images) for images, _ in make_loader(few, 8, drop_last=True)] == [8, 8]


class Seeded(Dataset):
    """Seeds PyTorch's generator by index before it takes an item."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        torch.default_generator.manual_seed(index)
        return self.dataset[index]


def test_seeded_augmentation_is_the_same_in_any_number_of_workers(shapes):
    augmented = Subset(Seeded(CocoDetection(shapes, "train", None, train_transform("detr", 96, 160))), range(12))
    here = list(make_loader(augmented, 4))
    there = list(make_loader(augmented, 4, num_workers=2))
    for (images, targets), (others, other_targets) in zip(here, there, strict=True):
        for image, other, target, other_target in zip(images, others, targets, other_targets, strict=True):
            assert torch.equal(image, other)
            assert torch.equal(target["boxes"], other_target["boxes"])
