"""What decides the result of a comparison."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from greedyprune.errors import UserError
from greedyprune.evaluation.metrics import COCO, METRICS
from greedyprune.evaluation.predict import AMP_DTYPES
from greedyprune.ranges import Batch, Count, CountOrNone, Positive, Seed, check_ranges
from greedyprune.training.config import TrainOptions

AUGMENT = "flips"  # of retraining


@dataclass(frozen=True)
class ComparisonOptions:
    """Everything about a comparison that decides its numbers, but the methods.

    Attributes:
        retrain_epochs: epochs on labels after pruning; 0: none.
        retrain_lr: learning rate of retraining, the same for backbone and everything else.
        retrain_batch_size: images in a step of retraining.
        retrain_images: only the first so many training images; 0: all.
        teacher: while retraining, the dense detector's answers are learned beside the labels.
        calib_images: training images that methods look at.
        eval_images: validation images, chosen by the seed; 0: all.
        latency_runs: timed forward passes of each batch size; 0: none.
        batch_size: images at once in evaluation.
        metric: whose AP is told.
        amp: mixed precision: `none`, `bf16` or `fp16`.
        seed: of everything that is drawn.
    """

    retrain_epochs: CountOrNone = 0
    retrain_lr: Positive = 1e-4
    retrain_batch_size: Batch = 16
    retrain_images: CountOrNone = 0
    teacher: bool = False
    calib_images: Count = 500
    eval_images: CountOrNone = 0
    latency_runs: CountOrNone = 20
    batch_size: Batch = 25
    metric: str = field(default=COCO, metadata={"choices": tuple(METRICS)})
    amp: str = field(default="none", metadata={"choices": ("none", *AMP_DTYPES)})
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(self, lambda name: f"--{name}")
        for each in fields(self):
            value, choices = getattr(self, each.name), each.metadata.get("choices")
            if choices and value not in choices:
                raise UserError(f"--{each.name} {value!r} is unknown; choose one of {', '.join(choices)}")

    def training(self, keep_zeros: bool, foreign: Collection[str]) -> TrainOptions:
        """The retraining of one arm.

        Args:
            keep_zeros: weights that are zero stay so.
            foreign: options that say nothing of the detector.
        """
        asked: dict[str, Any] = {
            "epochs": self.retrain_epochs,
            "batch_size": self.retrain_batch_size,
            "lr": self.retrain_lr,
            "lr_backbone": self.retrain_lr,
            "schedule": "cosine",
            "clip_max_norm": 1.0,
            "freeze_norm_at": 0.0,
            "augment": AUGMENT,
            "train_images": self.retrain_images,
            "eval_every": 0,
            "eval_images": 0,
            "amp": self.amp,
            "seed": self.seed,
            "keep_zeros": keep_zeros,
        }
        return TrainOptions(**{name: value for name, value in asked.items() if name not in foreign})

    def settings(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
