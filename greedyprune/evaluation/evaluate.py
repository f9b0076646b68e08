"""A detector's whole account: how well it detects, and what that costs."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import Subset

from greedyprune.classes import map_labels
from greedyprune.data.coco import CocoDetection
from greedyprune.data.loader import make_loader
from greedyprune.errors import UserError
from greedyprune.evaluation.ap import AP_NAMES, AR_NAMES, coco_ap
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.predict import AMP_DTYPES, predict_detections
from greedyprune.evaluation.profile import count_flops, count_parameters, measure_latency
from greedyprune.models import Detector
from greedyprune.models.deploy import deployed


def subset_ids(image_ids: Sequence[int], n: int, seed: int = 0) -> list[int]:
    """The images of a subset evaluation.

    Args:
        image_ids: all images, in any order.
        n: how many; 0, or more than there are: all.
        seed: chooses the permutation whose first n images they are, so that a smaller subset is part of a larger one.

    Returns:
        Sorted ids.
    """
    ids = sorted(image_ids)
    if 0 < n < len(ids):
        random.Random(seed).shuffle(ids)
        ids = sorted(ids[:n])
    return ids


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation measured, and on what.

    Attributes:
        accuracy: what `coco_ap` returns.
        params: parameters of the model.
        transformer_params: those of its Transformer.
        flops: multiply-adds for one image of `image_size`.
        transformer_flops: the Transformer's share of them.
        latency_ms: what `measure_latency` returns; None when it was not measured.
        device: where the model ran.
        threads: CPU threads of PyTorch.
        dtype: what the forward pass computed in.
        images: number of images evaluated.
        image_seed: seed that chose them; None: they are all of the data set's.
        image_size: height and width, in pixels, for which multiply-adds and latency hold.
        detections: what the model answered.
    """

    accuracy: dict[str, Any]
    params: int
    transformer_params: int
    flops: int
    transformer_flops: int
    latency_ms: dict[str, float] | None
    device: str
    threads: int
    dtype: str
    images: int
    image_seed: int | None
    image_size: tuple[int, int]
    detections: Detections = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The object that `tools/eval.py --json` prints: finite numbers, text and null only."""
        return {
            **{name: self.accuracy[name] for name in (*AP_NAMES, *AR_NAMES, "per_class")},
            "params": self.params,
            "transformer_params": self.transformer_params,
            "flops": self.flops,
            "transformer_flops": self.transformer_flops,
            "latency_ms": self.latency_ms,
            "device": self.device,
            "threads": self.threads,
            "dtype": self.dtype,
            "images": self.images,
            "image_seed": self.image_seed,
            "image_size": list(self.image_size),
        }


def evaluate(
    model: Detector,
    dataset: CocoDetection,
    *,
    images: int = 0,
    seed: int = 0,
    batch_size: int = 8,
    num_workers: int = 0,
    amp: str | None = None,
    latency_runs: int = 20,
    backend: str = "auto",
    progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
) -> EvalResult:
    """Evaluate a detector on the device where it is, as it is `deployed`.

    Args:
        model: a detector.
        dataset: images with the evaluation transform.
        images: how many of them, chosen as by `subset_ids`; 0: all.
        seed: chooses the images.
        batch_size: images in a forward pass.
        num_workers: processes that decode images.
        amp: None, `bf16` or `fp16`.
        latency_runs: timed forward passes; 0: latency is not measured.
        backend: see `coco_ap`.
        progress: wraps the loader, to show a bar.

    Raises:
        UserError: the data set has no images, one of them cannot be read, or it has objects of classes that the model
            lacks.
    """
    device = next(model.parameters()).device
    chosen = subset_ids(dataset.image_ids, images, seed)
    size = typical_size(dataset, chosen)
    place = {image: index for index, image in enumerate(dataset.image_ids)}
    subset = Subset(dataset, [place[image] for image in chosen])
    loader: Iterable[Any] = make_loader(subset, batch_size, num_workers=num_workers)
    fast = deployed(model)
    categories = map_labels(model.classes, dataset.coco, dataset.root).categories
    shown = loader if progress is None else progress(loader)
    found = predict_detections(fast, shown, device, amp=amp, category_ids=categories)
    params, transformer_params = count_parameters(model)
    flops, transformer_flops = count_flops(model, size)
    return EvalResult(
        accuracy=coco_ap(dataset.coco, found, chosen, backend),
        params=params,
        transformer_params=transformer_params,
        flops=flops,
        transformer_flops=transformer_flops,
        latency_ms=measure_latency(fast, size, runs=latency_runs, amp=amp) if latency_runs else None,
        device=describe_device(device),
        threads=torch.get_num_threads(),
        dtype=str(AMP_DTYPES.get(amp or "none", next(model.parameters()).dtype)).removeprefix("torch."),
        images=len(chosen),
        image_seed=seed if len(chosen) < len(dataset.image_ids) else None,
        image_size=size,
        detections=found,
    )


def typical_size(dataset: CocoDetection, image_ids: Sequence[int]) -> tuple[int, int]:
    """Height and width, as the model gets it, of an image of the most common original size among those given.

    Raises:
        UserError: none is given.
    """
    if not image_ids:
        raise UserError(f"there are no images in {dataset.folder} to evaluate on; give other data as --coco_path")
    sizes = {image: (dataset.coco.imgs[image]["height"], dataset.coco.imgs[image]["width"]) for image in image_ids}
    common = Counter(sizes[image] for image in sorted(image_ids)).most_common(1)[0][0]
    first = next(image for image in sorted(image_ids) if sizes[image] == common)
    image, _ = dataset[dataset.image_ids.index(first)]
    return image.shape[-2], image.shape[-1]


def describe_device(device: torch.device) -> str:
    """`cpu`, or a GPU's index and name."""
    if device.type != "cuda":
        return str(device)
    return f"cuda:{device.index or 0} ({torch.cuda.get_device_name(device)})"
