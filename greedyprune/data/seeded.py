"""Order and augmentation of images as functions of a seed, in whatever process they are decoded."""

import hashlib

import torch
from torch.utils.data import Dataset

from greedyprune.data.coco import Item


def mixed_seed(*parts: int) -> int:
    """A seed of 63 bits that is different for every tuple of numbers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def epoch_order(images: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch (from 0) sees the images: a permutation of `range(images)`."""
    generator = torch.Generator().manual_seed(mixed_seed(seed, epoch))
    return torch.randperm(images, generator=generator).tolist()


class SeededItems(Dataset[Item]):
    """A data set whose random augmentation is a function of seed, epoch and index, in whatever process it runs.

    Args:
        dataset: augments with random numbers of PyTorch's global generator.
        seed: of the training.
        epoch: from 0.
    """

    def __init__(self, dataset: Dataset[Item], seed: int, epoch: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    def __getitem__(self, index: int) -> Item:
        # torch.manual_seed would wake up CUDA in a worker.
        torch.default_generator.manual_seed(mixed_seed(self.seed, self.epoch, index))
        return self.dataset[index]
