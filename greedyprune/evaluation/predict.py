"""A detector's answers for the images of a loader."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.errors import UserError
from greedyprune.evaluation.detections import Detections
from greedyprune.families.base import Family

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Batch = tuple[list[Tensor], list[dict[str, Any]]]


def autocast(
    device: torch.device | str, amp: str | None, in_place: bool = False
) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision for a forward pass.

    Args:
        device: where the model is.
        amp: `bf16`, `fp16`, or None or `none` for the model's own precision.
        in_place: weights change in place meanwhile; each use converts them anew.
    """
    if amp is None or amp == "none":
        return contextlib.nullcontext()
    if amp not in AMP_DTYPES:
        raise UserError(f"--amp {amp!r} is unknown; choose one of none, {', '.join(AMP_DTYPES)}")
    return torch.autocast(torch.device(device).type, dtype=AMP_DTYPES[amp], cache_enabled=not in_place)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode and without gradients; afterwards its mode is what it was."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def predict_detections(
    family: Family,
    model: nn.Module,
    loader: Iterable[Batch],
    top_k: int = 100,
    amp: str | None = None,
    category_ids: Sequence[int | None] = (),
) -> Detections:
    """Run a detector over a loader, on the device where it is.

    Args:
        family: of the detector.
        model: the detector.
        loader: batches of normalised images `[3, h, w]` and targets with `image_id` and `size` (height, width of the
            original image in pixels).
        top_k: detections for each image, at most.
        amp: see `autocast`.
        category_ids: of every label; of labels without one, detections are left out. Empty: labels are the ids.

    Returns:
        Detections in the original images' pixels, in the loader's order, best score first within an image.
    """
    parts = []
    with evaluating(model), autocast(next(model.parameters()).device, amp):
        for images, targets in loader:
            answer = family.answer(model, family.inputs(model, images), last_only=True)
            results = family.detections(model, answer, torch.stack([target["size"] for target in targets]), top_k)
            image_ids = [int(target["image_id"]) for target in targets]
            parts.append(Detections.from_results(results, image_ids, category_ids))
    return Detections.concat(parts)
