"""Training: from scratch or from a checkpoint, on one process or many, and resumable at every step."""

from greedyprune.training.config import RunOptions, TrainOptions
from greedyprune.training.distributed import World, open_world
from greedyprune.training.ema import Ema
from greedyprune.training.feed import Feed
from greedyprune.training.trainer import Stopped, Trainer
from greedyprune.training.validation import Validation

__all__ = ["Ema", "Feed", "RunOptions", "Stopped", "TrainOptions", "Trainer", "Validation", "World", "open_world"]
