"""What a training is: the options that decide its result, and those that only say how it is run."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from greedyprune.data.transforms import AUGMENTATIONS
from greedyprune.errors import UserError
from greedyprune.evaluation.predict import AMP_DTYPES
from greedyprune.models import Denoising
from greedyprune.ranges import (
    Amount,
    Batch,
    Count,
    CountOrNone,
    ImagesOrNone,
    ProcessesOrNone,
    Seed,
    Share,
    ShareBelowOne,
    check_ranges,
)

SCHEDULES = ("step", "cosine", "constant")
OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class TrainOptions:
    """Everything but model, data and weights that decides what comes out; the defaults are DN-DETR's 12 epochs.

    A training that is resumed must have the same ones.

    Attributes:
        epochs: times that every training image is seen.
        steps: stop after this many steps if that is earlier; 0: no such limit.
        batch_size: images of one optimizer step, over all processes.
        lr: learning rate.
        lr_backbone: learning rate of the backbone; 0: it is not trained, nor are its norms.
        optimizer: adamw, or sgd with --momentum.
        momentum: of sgd.
        weight_decay: AdamW's decoupled weight decay; with sgd it is added to the gradient.
        no_decay_norm: no weight decay for norms, biases and single numbers.
        schedule: step, cosine or constant.
        lr_drop: epochs after which `step` multiplies by 0.1 (default: 11 of 12, and 80 % of longer trainings).
        warmup_steps: steps over which the learning rate rises from 0.
        clip_max_norm: largest norm of the gradient; 0: any.
        amp: none, bf16 or fp16.
        ema: decay of the averaged weights, which are then the ones evaluated and saved; 0: no averaging.
        no_dn: train without query denoising.
        scalar: denoising groups.
        label_noise_scale: probability that a denoising label is replaced.
        box_noise_scale: how far denoising boxes move and grow, in parts of their size.
        encoder_head: weight of the loss of a head over the encoder, there in training only; 0: no such head. For
            training from scratch.
        distill: weight of the teacher's answers in the loss, where there is a teacher.
        augment: detr (flip, several sizes, crop), darknet (moved edges, flip, hue, saturation, brightness), flips (both
            flips, x and y swapped, colours shuffled) or none.
        multi_scale: another size of images every ten steps. For Darknet's detectors.
        loss_sum: the loss is the sum over the images of a step, as Darknet's, and not their mean. For detectors whose
            loss is a mean over images.
        train_images: only the first so many training images; 0: all. The demo data set is made so large if need be.
        eval_every: epochs between evaluations; the last epoch always has one; 0: only that one.
        eval_images: validation images, chosen by the seed; 0: all.
        freeze_norm_epoch: epoch from which on the backbone's batch norm keeps its statistics.
        freeze_norm_at: the same, as a share of all steps.
        seed: of initial weights, order, augmentation and noise.
    """

    epochs: Count = 12
    steps: CountOrNone = 0
    batch_size: Batch = 16
    lr: Amount = 1e-4
    lr_backbone: Amount = 1e-5
    optimizer: str = "adamw"
    momentum: ShareBelowOne = 0.9
    weight_decay: Amount = 1e-4
    no_decay_norm: bool = False
    schedule: str = "step"
    lr_drop: Count | None = None
    warmup_steps: CountOrNone = 0
    clip_max_norm: Amount = 0.1
    amp: str = "none"
    ema: ShareBelowOne = 0.0
    no_dn: bool = False
    scalar: Count = 5
    label_noise_scale: Amount = 0.2
    box_noise_scale: Amount = 0.4
    encoder_head: Amount = 0.0
    distill: Amount = 5.0
    augment: str = "detr"
    multi_scale: bool = False
    loss_sum: bool = False
    train_images: ImagesOrNone = 0
    eval_every: CountOrNone = 1
    eval_images: CountOrNone = 0
    freeze_norm_epoch: CountOrNone | None = None
    freeze_norm_at: Share | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(self, lambda name: f"--{name}")
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("augment", AUGMENTATIONS),
            ("amp", ("none", *AMP_DTYPES)),
        ):
            if getattr(self, name) not in choices:
                raise UserError(f"--{name} {getattr(self, name)!r} is unknown; choose one of {', '.join(choices)}")
        if self.freeze_norm_at is not None and self.freeze_norm_epoch is not None:
            raise UserError("--freeze_norm_at and --freeze_norm_epoch say the same thing; leave one of them out")

    @property
    def drop_epoch(self) -> int:
        """Epochs after which the `step` schedule drops (DN-DETR, section 5.1: 11 of 12 and 40 of 50)."""
        if self.lr_drop is not None:
            return self.lr_drop
        return max(1, self.epochs - 1) if self.epochs <= 12 else self.epochs * 4 // 5

    @property
    def denoising(self) -> Denoising | None:
        """The noise; None where training goes without."""
        return None if self.no_dn else Denoising(self.scalar, self.label_noise_scale, self.box_noise_scale)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole training."""
        total = self.epochs * steps_per_epoch
        return min(total, self.steps) if self.steps else total

    def norm_frozen_from(self, steps_per_epoch: int) -> int | None:
        """The step (from 0) from which on batch norm keeps its statistics; None: never."""
        if self.lr_backbone == 0:
            return 0
        if self.freeze_norm_epoch is not None:
            return self.freeze_norm_epoch * steps_per_epoch
        if self.freeze_norm_at is not None:
            return round(self.freeze_norm_at * self.total_steps(steps_per_epoch))
        return None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class RunOptions:
    """How a training is run; these may differ when it is resumed.

    Attributes:
        output_dir: folder for state, checkpoints and log.
        accumulate: parts that a step's images are taken in, one after another, to need less memory.
        save_every: steps between states; every epoch is saved, too.
        log_every: steps between lines of the log.
        num_workers: processes that decode images.
        cache_images: keep decoded images in memory.
        channels_last: let convolutions work on channels-last memory.
        compile: compile backbone and layers; slow to start, faster after.
        tensorboard: write TensorBoard events to OUTPUT_DIR/tensorboard.
    """

    output_dir: Path = Path("runs/train")
    accumulate: Count = 1
    save_every: Count = 500
    log_every: Count = 50
    num_workers: ProcessesOrNone = 0
    cache_images: bool = False
    channels_last: bool = False
    compile: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, lambda name: f"--{name}")
