"""Scores and mAP of proposals, with everything before the site at hand computed once."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from greedyprune.data.coco import CocoDetection
from greedyprune.data.loader import make_loader
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.vectorized import CocoEvaluator
from greedyprune.models.criterion import Criterion
from greedyprune.models.detector import Detector
from greedyprune.models.matcher import Target
from greedyprune.models.postprocess import postprocess
from greedyprune.pruning.prefix import Place, Prefix, advance, begin, finish, site_place
from greedyprune.pruning.score import candidate_losses
from greedyprune.pruning.sites import Site

Progress = Callable[[Iterable[Any]], Iterable[Any]]


class Images:
    """A data set's images as the Transformer gets them: the backbone runs once for each.

    Args:
        model: the dense detector; only its backbone and projection are used.
        dataset: images with the evaluation transform.
        ids: which of them, in any order.
        batch_size: images in a batch.
        num_workers: processes that decode.
        progress: wraps the loader, to show a bar.
    """

    def __init__(
        self,
        model: Detector,
        dataset: CocoDetection,
        ids: Sequence[int],
        batch_size: int,
        num_workers: int = 0,
        progress: Progress | None = None,
    ) -> None:
        position = {image: index for index, image in enumerate(dataset.image_ids)}
        chosen_ids = sorted(ids)
        chosen = Subset(dataset, [position[image] for image in chosen_ids])
        loader: Iterable[Any] = make_loader(chosen, batch_size, num_workers=num_workers)
        device = next(model.parameters()).device
        self.ids = list(chosen_ids)
        self.start: list[Prefix] = []
        self.targets: list[list[dict[str, Any]]] = []
        with torch.no_grad():  # not inference mode: calibration goes backwards through what comes after
            for images, targets in progress(loader) if progress else loader:
                features = model.features([image.to(device) for image in images])
                self.start.append(begin(features))
                self.targets.append(targets)
        self.at = self.start

    def __len__(self) -> int:
        return len(self.ids)

    def labelled(self, device: torch.device) -> list[tuple[Prefix, list[Target]]]:
        """Every batch before the first layer, with what a criterion reads of its targets."""
        return list(zip(self.start, [_labels(batch, device) for batch in self.targets], strict=True))

    def move(self, model: Detector, place: Place) -> int:
        """Bring every batch to a place of `model`; returns the images that ran for it."""
        if not self.at or self.at[0].place == place:
            return 0
        if place < self.at[0].place:
            self.at = self.start
        with torch.inference_mode():
            self.at = [advance(model, prefix, place) for prefix in self.at]
        return len(self)


class Evaluator:
    """Losses and AP of one site's proposals inside the model that is being pruned.

    Counts in `image_forwards` every image that goes through the Transformer or a part of it.

    Args:
        model: the detector as pruned so far; its tensors change while it is searched, its first form is dense.
        subset: the validation subset.
        rest: all other validation images.
        score: images whose detection loss scores candidates.
        coco: ground truth of the validation images.
        top_k: detections for each image.
    """

    def __init__(
        self, model: Detector, subset: Images, rest: Images, score: Images, coco: Any, top_k: int = 100
    ) -> None:
        self.model, self.subset, self.rest, self.score, self.top_k = model, subset, rest, score, top_k
        self.image_forwards = 0
        device = next(model.parameters()).device
        self.targets = [_labels(batch, device) for batch in score.targets]
        self.criterion = Criterion(model.options.num_classes)
        self.subset_ap = CocoEvaluator(coco, subset.ids)
        self.full_ap = CocoEvaluator(coco, [*subset.ids, *rest.ids])

    def enter(self, site: Site) -> None:
        """Go on to a site: what lies before it runs for the last time."""
        for images in (self.subset, self.rest, self.score):
            self.image_forwards += images.move(self.model, site_place(site))

    def restart(self) -> None:
        """Go back before the first layer: the model has changed."""
        for images in (self.subset, self.rest, self.score):
            images.at = images.start

    @torch.inference_mode()
    def loss(self, site: Site | None = None) -> float:
        """Detection loss of the model on the scoring images.

        Args:
            site: nothing before it has changed since the last call; None: anything may have.
        """
        if site is None:
            self.score.at = self.score.start
        else:
            self.image_forwards += self.score.move(self.model, site_place(site))
        total = 0.0
        for prefix, targets in zip(self.score.at, self.targets, strict=True):
            outputs = finish(self.model, prefix)
            total += self.criterion.total(self.criterion(outputs, targets)).item() * prefix.images
        self.image_forwards += len(self.score)
        return total / len(self.score)

    def losses(self, site: Site, kept: Sequence[int], candidates: Sequence[int]) -> Tensor:
        """Detection loss with each candidate added; see `candidate_losses`."""
        batches = list(zip(self.score.at, self.targets, strict=True))
        self.image_forwards += len(candidates) * len(self.score)
        return candidate_losses(self.model, site, kept, candidates, batches, self.criterion)

    def subset_map(self) -> tuple[float, Detections]:
        """AP on the subset, and its detections for `full_map` to go on from."""
        found = self._detect(self.subset)
        return self.subset_ap.ap(found), found

    def full_map(self, subset: Detections) -> float:
        """AP on all validation images, of which the subset has run already."""
        return self.full_ap.ap(Detections.concat([subset, self._detect(self.rest)]))

    @torch.inference_mode()
    def _detect(self, images: Images) -> Detections:
        parts = []
        for prefix, targets in zip(images.at, images.targets, strict=True):
            outputs = finish(self.model, prefix, last_only=True)
            results = postprocess(outputs, torch.stack([target["size"] for target in targets]), self.top_k)
            ids = [int(target["image_id"]) for target in targets]
            parts.append(Detections.from_results(results, ids, self.model.info.category_ids))
        self.image_forwards += len(images)
        return Detections.concat(parts)


def _labels(batch: Sequence[dict[str, Any]], device: torch.device) -> list[Target]:
    return [{key: target[key].to(device) for key in ("labels", "boxes")} for target in batch]
