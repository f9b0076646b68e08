"""Detection data: COCO's layout, augmentation, loaders, and the embedded synthetic set."""

from greedyprune.data.cache import cache_dir, demo_data
from greedyprune.data.coco import CocoDetection
from greedyprune.data.images import ImageError
from greedyprune.data.loader import collate, make_loader
from greedyprune.data.shapes_coco import make_shapes
from greedyprune.data.transforms import IMAGENET_MEAN, IMAGENET_STD, denormalise, eval_transform, train_transform

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "CocoDetection",
    "ImageError",
    "cache_dir",
    "collate",
    "demo_data",
    "denormalise",
    "eval_transform",
    "make_loader",
    "make_shapes",
    "train_transform",
]
