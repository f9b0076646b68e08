"""DETR-family detectors whose layers take their widths."""

from greedyprune.models.batch import ImageBatch, pad_images
from greedyprune.models.checkpoint import load_checkpoint, load_model, read_checkpoint, save_checkpoint
from greedyprune.models.criterion import Criterion
from greedyprune.models.denoising import Denoising
from greedyprune.models.detector import Detector
from greedyprune.models.dn_detr import DNDETR
from greedyprune.models.features import Features
from greedyprune.models.matcher import HungarianMatcher
from greedyprune.models.options import DetectorOptions, DNDETROptions, ModelInfo
from greedyprune.models.postprocess import postprocess
from greedyprune.models.registry import MODELS, build_model

__all__ = [
    "DNDETR",
    "MODELS",
    "Criterion",
    "DNDETROptions",
    "Denoising",
    "Detector",
    "DetectorOptions",
    "Features",
    "HungarianMatcher",
    "ImageBatch",
    "ModelInfo",
    "build_model",
    "load_checkpoint",
    "load_model",
    "pad_images",
    "postprocess",
    "read_checkpoint",
    "save_checkpoint",
]
