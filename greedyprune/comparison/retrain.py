"""Retraining of one arm: on labels, its zeros kept, from wherever it was interrupted."""

from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from greedyprune.comparison.options import ComparisonOptions
from greedyprune.data.coco import CocoDetection
from greedyprune.families import family_of
from greedyprune.search.setup import weights_hash
from greedyprune.training import Feed, RunOptions, Trainer, World
from greedyprune.training.log import TrainLog
from greedyprune.training.recipes import recipe_class
from greedyprune.training.state import Folder


def retrained(
    model: nn.Module,
    dense: nn.Module,
    train: CocoDetection,
    options: ComparisonOptions,
    keep_zeros: bool,
    folder: Path,
    num_workers: int = 0,
) -> nn.Module:
    """A detector after retraining, in eval mode.

    Args:
        model: right after pruning; it is not changed.
        dense: before pruning, which teaches where that is asked for.
        train: training images with their augmentation.
        options: of the comparison.
        keep_zeros: weights that are zero stay so.
        folder: keeps the state of the training.
        num_workers: processes that decode images.

    Raises:
        UserError: the folder holds another training, or the loss is not finite.
        Stopped: SIGINT or SIGTERM came; the state is saved.
    """
    family, device = family_of(model), next(model.parameters()).device
    recipe = recipe_class(model)
    training = options.training(keep_zeros, recipe.foreign)
    run, world = RunOptions(output_dir=folder, num_workers=num_workers), World(0, 1, device)
    settings = {
        "weights": weights_hash(model),
        **family.settings(model),
        "training data": train.fingerprint,
        **({"teacher": weights_hash(dense)} if options.teacher else {}),
    }
    teacher = deepcopy(dense) if options.teacher else None
    torch.manual_seed(options.seed)
    with Folder(folder):
        feed = Feed(train, training, run, world, recipe.gather)
        trainer = Trainer(deepcopy(model), feed, None, training, run, world, settings, teacher)
        position = trainer.position
        if not position.finished:
            log = TrainLog(folder, position.step, position.epochs_done, trainer.total)
            try:
                trainer.train(log)
            finally:
                log.close()
        return trainer.result.eval()
