"""Scores and mAP of proposals, with everything before the site at hand computed once."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from greedyprune.classes import map_labels
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.vectorized import CocoEvaluator
from greedyprune.models.criterion import Criterion
from greedyprune.models.detector import Detector, Outputs
from greedyprune.models.matcher import Target
from greedyprune.models.postprocess import postprocess
from greedyprune.pruning.damage import divergence
from greedyprune.pruning.prefix import Prefix, finish, site_place
from greedyprune.pruning.score import candidate_losses
from greedyprune.pruning.sites import Site
from greedyprune.search.images import Images


class Evaluator:
    """Losses and AP of one site's proposals inside the model that is being pruned.

    Counts in `image_forwards` every image that goes through the Transformer or a part of it; what is computed again
    because there was no room to keep it is not counted, so that the count does not depend on the room.

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
        self.categories = map_labels(model.classes, coco, "the data set").categories
        self.criterion = Criterion(model.options.num_classes)
        self.coco = coco
        self.subset_ap = CocoEvaluator(coco, subset.ids)
        self.full_ap = CocoEvaluator(coco, [*subset.ids, *rest.ids])

    def enter(self, site: Site) -> None:
        """Go on to a site: what lies before it runs for the last time."""
        for images in (self.subset, self.rest, self.score):
            self.image_forwards += images.move(self.model, site_place(site))

    def restart(self) -> None:
        """Go back before the first layer: something after it has changed."""
        for images in (self.subset, self.rest, self.score):
            images.restart()

    def reload(self) -> None:
        """Go back to the images themselves: the backbone has changed."""
        for images in (self.subset, self.rest, self.score):
            images.reload(self.model)

    @torch.inference_mode()
    def damage(self, dense: Sequence[Outputs]) -> float:
        """Mean `divergence` of the model's answers on the scoring images, from the place where they are.

        Args:
            dense: the dense model's answers; see `answers`.
        """
        answers = self.answers()
        return sum(divergence(own, aim).sum().item() for own, aim in zip(answers, dense, strict=True)) / len(self.score)

    @torch.inference_mode()
    def answers(self) -> list[Outputs]:
        """What the model's last decoder layer says of the scoring images, batch after batch."""
        self.image_forwards += len(self.score)
        return [finish(self.model, prefix, last_only=True) for prefix, _ in self.score.batches(self.model)]

    def losses(self, site: Site, kept: Sequence[int], candidates: Sequence[int]) -> Tensor:
        """Detection loss with each candidate added; see `candidate_losses`."""
        self.image_forwards += len(candidates) * len(self.score)
        return candidate_losses(self.model, site, kept, candidates, self._scoring(), self.criterion)

    def subset_map(self) -> tuple[float, Detections]:
        """AP on the subset, and its detections for `full_map` to go on from."""
        found = self._detect(self.subset)
        return self.subset_ap.ap(found), found

    def full_map(self, subset: Detections) -> float:
        """AP on all validation images, of which the subset has run already."""
        return self.full_ap.ap(self.all_found(subset))

    def all_found(self, subset: Detections) -> Detections:
        """Detections on all validation images, of which the subset has run already."""
        return Detections.concat([subset, self._detect(self.rest)])

    def _scoring(self) -> Iterator[tuple[Prefix, list[Target]]]:
        return self.score.labelled(self.model)

    @torch.inference_mode()
    def _detect(self, images: Images) -> Detections:
        parts = []
        for prefix, targets in images.batches(self.model):
            outputs = finish(self.model, prefix, last_only=True)
            results = postprocess(outputs, torch.stack([target["size"] for target in targets]), self.top_k)
            ids = [int(target["image_id"]) for target in targets]
            parts.append(Detections.from_results(results, ids, self.categories))
        self.image_forwards += len(images)
        return Detections.concat(parts)
