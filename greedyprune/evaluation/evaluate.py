"""A detector's whole account: how well it detects, and what that costs."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from greedyprune.classes import map_labels
from greedyprune.data.coco import CocoDetection
from greedyprune.data.loader import make_loader
from greedyprune.errors import UserError
from greedyprune.evaluation.metrics import COCO, metric_of
from greedyprune.evaluation.predict import AMP_DTYPES, predict_detections
from greedyprune.evaluation.profile import WHOLE, count_flops, count_parameters, measure_latency
from greedyprune.evaluation.result import Costs, EvalResult
from greedyprune.families import family_of


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


def evaluate(
    model: nn.Module,
    dataset: CocoDetection,
    *,
    images: int = 0,
    seed: int = 0,
    batch_size: int = 8,
    num_workers: int = 0,
    amp: str | None = None,
    latency_runs: int = 20,
    backend: str = "auto",
    metric: str = COCO,
    progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
) -> EvalResult:
    """Evaluate a detector on the device where it is, as it is `deployed`.

    Args:
        model: a detector of a registered family.
        dataset: images with the evaluation transform.
        images: how many of them, chosen as by `subset_ids`; 0: all.
        seed: chooses the images.
        batch_size: images in a forward pass.
        num_workers: processes that decode images.
        amp: None, `bf16` or `fp16`.
        latency_runs: timed forward passes; 0: latency is not measured.
        backend: see `coco_ap`; of the metric `coco` alone.
        metric: one of `METRICS`: `coco`, `voc07`, `voc10`, `kitti`.
        progress: wraps the loader, to show a bar.

    Raises:
        UserError: the data set has no images, one of them cannot be read, it has objects of classes that the model
            lacks, or it has none of the classes that the metric is of.
    """
    judge = metric_of(metric)
    family, device = family_of(model), next(model.parameters()).device
    chosen = subset_ids(dataset.image_ids, images, seed)
    judge.evaluator(dataset.coco, chosen)  # refuses data that it cannot judge before hours of work
    size = typical_size(dataset, chosen)
    place = {image: index for index, image in enumerate(dataset.image_ids)}
    subset = Subset(dataset, [place[image] for image in chosen])
    loader: Iterable[Any] = make_loader(subset, batch_size, num_workers=num_workers)
    categories = map_labels(family.classes(model), dataset.coco, dataset.root).categories
    shown = loader if progress is None else progress(loader)
    found = predict_detections(family, family.deployed(model), shown, amp=amp, category_ids=categories)
    fast = family.deployed(model, size)  # the form that costs are of: for images of one size
    params, flops = count_parameters(family, model), count_flops(family, fast, size)
    latency = measure_latency(family, fast, size, runs=latency_runs, amp=amp) if latency_runs else {}
    costs = {label: Costs(params[label], flops[label], latency.get(label)) for label in params}
    accuracy = judge.accuracy(dataset.coco, chosen, found, backend)
    return EvalResult(
        accuracy=accuracy.scores,
        per_class=accuracy.per_class,
        cost=costs.pop(WHOLE),
        parts=costs,
        device=describe_device(device),
        threads=torch.get_num_threads(),
        dtype=str(AMP_DTYPES.get(amp or "none", next(model.parameters()).dtype)).removeprefix("torch."),
        images=len(chosen),
        image_seed=seed if len(chosen) < len(dataset.image_ids) else None,
        image_size=size,
        metric=metric,
        class_scores=accuracy.class_scores,
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
