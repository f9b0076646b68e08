"""A comparison: every arm is pruned, evaluated, retrained, evaluated again, measured and recorded."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from greedyprune.classical import Subject
from greedyprune.classical.weights import has_zeros, nonzero
from greedyprune.comparison.arms import Arm
from greedyprune.comparison.measure import saved, times
from greedyprune.comparison.options import ComparisonOptions
from greedyprune.comparison.record import Record
from greedyprune.comparison.retrain import retrained
from greedyprune.comparison.row import DENSE, Row, Sizes
from greedyprune.data.batches import DatasetBatches
from greedyprune.data.coco import CocoDetection
from greedyprune.entries import Entries
from greedyprune.errors import UserError
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.evaluate import evaluate, subset_ids
from greedyprune.evaluation.result import EvalResult
from greedyprune.families import family_of
from greedyprune.files import atomic_write
from greedyprune.search.setup import MEND_BATCH, weights_hash

SCORED = 64  # training images that tell damage apart
PICTURES = 4  # images of a report
DRAWN = 0.3  # lowest score of a box in it
_PRUNED, _FINAL, _BEFORE, _FOUND = "pruned.safetensors", "model.safetensors", "pruned.json", "found.json"
Progress = Callable[[str], Callable[[Iterable[Any]], Iterable[Any]]]


@dataclass(frozen=True)
class Data:
    """The images of a comparison.

    Attributes:
        train: training images with the evaluation transform, which methods look at,
        augmented: and with the augmentation that retraining wants.
        val: validation images with the evaluation transform.
    """

    train: CocoDetection
    augmented: CocoDetection
    val: CocoDetection


class Comparison:
    """A comparison of arms on one detector.

    Args:
        model: the dense detector, in eval mode on its device.
        data: its images.
        options: what decides the numbers.
        folder: gets a folder for every arm.
        say: is told what goes on, a line at a time.
        num_workers: processes that decode images.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        options: ComparisonOptions,
        folder: Path,
        say: Callable[[str], None] = lambda line: None,
        num_workers: int = 0,
    ) -> None:
        self.model, self.data, self.options, self.folder, self.say = model, data, options, folder, say
        self.num_workers = num_workers
        self.family = family_of(model)
        labelled = [image for image in data.train.image_ids if data.train.coco.imgToAnns.get(image)]
        chosen = subset_ids(labelled, options.calib_images + SCORED, options.seed)
        scored = subset_ids(chosen, min(SCORED, len(chosen) // 2), options.seed + 1)
        calibration = sorted(set(chosen) - set(scored))
        batches, scoring = (DatasetBatches(data.train, ids, MEND_BATCH) for ids in (calibration, scored))
        self.subject = Subject(self.family, model, batches, scoring, seed=options.seed)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the numbers, as JSON values; which arms there are does not."""
        return {
            "options": self.options.settings(),
            "family": self.family.name,
            "weights": weights_hash(self.model),
            "train_data": self.data.train.fingerprint,
            "val_data": self.data.val.fingerprint,
        }

    def run(self, arms: Sequence[Arm], record: Record) -> list[Row]:
        """Measure what the record lacks; the dense detector first.

        Returns:
            The dense detector's row, and one of every arm.

        Raises:
            UserError: a method cannot prune this detector, or the disk refuses; rows that are recorded stay.
        """
        for arm in arms:
            if arm.name not in record.rows and not arm.method.looks:
                arm.method.prune(self.subject, arm.amount)  # what it refuses is better known now
        if DENSE not in record.rows:
            self.say("the dense detector")
            record.add(self._dense())
        for number, arm in enumerate(arms, start=1):
            if arm.name not in record.rows:
                self.say(f"{arm.name} ({number} of {len(arms)})")
                record.add(self._measured(arm))
        return [record.rows[name] for name in (DENSE, *(arm.name for arm in arms))]

    def found(self, name: str) -> Detections:
        """What the detector of a row finds in the first images, as far as it is sure."""
        path = self._folder(name) / _FOUND
        try:
            return Detections.from_rows(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{path} is missing or damaged; remove the study's database and folder, and repeat"
            ) from None

    @cached_property
    def pictured(self) -> list[int]:
        """The images that `found` is about."""
        return subset_ids(self.data.val.image_ids, self.options.eval_images, self.options.seed)[:PICTURES]

    def _dense(self) -> Row:
        result = self._evaluated(self.model, DENSE)
        return self._row(DENSE, "", 0.0, self.model, result, None)

    def _measured(self, arm: Arm) -> Row:
        options, folder = self.options, self._folder(arm.name)
        pruned, before = self._pruned(arm)
        after, model = None, pruned
        if options.retrain_epochs:
            zeros, state = has_zeros(pruned), folder / "training"
            model = retrained(pruned, self.model, self.data.augmented, options, zeros, state, self.num_workers)
            after = self._evaluated(model, arm.name)
        return self._row(arm.name, arm.method.name, arm.amount, model, before, after)

    def _pruned(self, arm: Arm) -> tuple[nn.Module, EvalResult]:
        """The detector right after pruning and what it finds; read where an interrupted run left both."""
        folder = self._folder(arm.name)
        model_file, told = folder / _PRUNED, folder / _BEFORE
        key = json.dumps(self.settings, sort_keys=True)
        if told.exists() and model_file.exists():
            place = str(told)
            try:
                stored = Entries(json.loads(told.read_text()), place)
            except ValueError:
                raise UserError(f"{told} is damaged: it is no JSON; remove it, and repeat") from None
            if stored.entry("settings", str) == key:
                model = self.family.load(model_file).to(next(self.model.parameters()).device)
                return model, EvalResult.from_json(stored.entry("result", dict), place)
        model = arm.method.apply(self.subject, arm.amount).eval()
        result = self._evaluated(model, arm.name)
        saved(self.family, model, model_file)
        atomic_write(told, json.dumps({"settings": key, "result": result.to_json()}))
        return model, result

    def _evaluated(self, model: nn.Module, name: str) -> EvalResult:
        options = self.options
        result = evaluate(
            model,
            self.data.val,
            images=options.eval_images,
            seed=options.seed,
            batch_size=options.batch_size,
            num_workers=self.num_workers,
            amp=options.amp,
            latency_runs=0,
            metric=options.metric,
        )
        assert result.detections is not None
        found = result.detections
        drawn = (found.scores >= DRAWN) & np.isin(found.image_ids, self.pictured)
        atomic_write(self._folder(name) / _FOUND, json.dumps(found[drawn].rows()))
        return result

    def _row(
        self,
        name: str,
        method: str,
        amount: float,
        model: nn.Module,
        before: EvalResult,
        after: EvalResult | None,
    ) -> Row:
        sizes: Sizes = saved(self.family, model, self._folder(name) / _FINAL)
        latency = times(self.family, model, before.image_size, self.options.latency_runs, self.options.amp)
        return Row(name, method, amount, before, after, nonzero(model), sizes, latency)

    def _folder(self, name: str) -> Path:
        return self.folder / name.replace(":", "-")
