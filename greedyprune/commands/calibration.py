"""Training images of the closed form and of mending: which they are, and a cutter that works with them."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from greedyprune.cfgs import PRUNE
from greedyprune.data.coco import CocoDetection
from greedyprune.data.transforms import AUGMENTATIONS
from greedyprune.errors import UserError
from greedyprune.evaluation.evaluate import subset_ids
from greedyprune.models import Detector
from greedyprune.pruning.scorers import SCORERS, Given
from greedyprune.pruning.sites import list_sites
from greedyprune.ranges import COUNT, COUNT_OR_NONE, SEED, SHARE_BELOW_ONE
from greedyprune.report import progress_bar
from greedyprune.search.cutter import Cutter, Mending
from greedyprune.search.images import Images, Room
from greedyprune.search.lessons import Lessons

BATCH = 8  # images in a step of mending

# What `open_cutter` reads of a study's settings.
CUT_SETTINGS: dict[str, Any] = {
    "train_data": str,
    "score_images": COUNT,
    "seed": SEED,
    "amp": ("none", "bf16", "fp16"),
    "map_tol": SHARE_BELOW_ONE,
    "scorer": SCORERS,
    "refit": bool,
    "prune": PRUNE,
    "calib_images": COUNT,
    "mend_images": COUNT_OR_NONE,
    "mend_steps": COUNT_OR_NONE,
    "mend_augment": AUGMENTATIONS,
}


def scoring_ids(train: CocoDetection, images: int, seed: int) -> list[int]:
    """Training images with objects, whose loss tells candidates or damage apart.

    Raises:
        UserError: there are none.
    """
    with_objects = [image for image in train.image_ids if train.coco.imgToAnns.get(image)]
    if not with_objects:
        raise UserError(
            f"no training image in {train.folder} has an object, and a search scores on such; annotate some, or give "
            "other data as --coco_path"
        )
    return subset_ids(with_objects, images, seed)


def calibration_ids(train: CocoDetection, score: list[int], images: int, seed: int) -> list[int]:
    """Other training images.

    Raises:
        UserError: there are none.
    """
    others = sorted(set(train.image_ids) - set(score))
    if not others:
        remedy = "give a smaller --score_images" if len(score) > 1 else "give more training images"
        raise UserError(
            f"all {len(score)} training images in {train.root} measure damage, none is left to calibrate on: {remedy}"
        )
    return subset_ids(others, images, seed)


def open_mending(
    model: Detector,
    train: CocoDetection,
    score: list[int],
    settings: Mapping[str, Any],
    room: Room,
    num_workers: int,
) -> Mending:
    """What slim models are mended with, as a study's settings say; see `open_cutter`."""
    seed, device = settings["seed"], next(model.parameters()).device
    every = calibration_ids(train, score, 0, seed)
    ids = calibration_ids(train, score, settings["mend_images"], seed)
    told = progress_bar("backbone, images to mend with")
    return Mending(
        settings["mend_steps"],
        cache(lambda: Images(model, train, ids, BATCH, room, num_workers, told)),
        Lessons(train, every, settings["mend_augment"], model.info, BATCH, seed, device, num_workers),
        -(-len(ids) // BATCH),
        room,
    )


def open_cutter(
    model: Detector,
    train: CocoDetection,
    score: list[int],
    settings: Mapping[str, Any],
    room: Room,
    num_workers: int,
    doing: Callable[[str], None],
) -> Cutter:
    """A cutter as a study's settings say.

    Args:
        model: the dense detector.
        train: the training set.
        score: training images that measure damage, which are left out.
        settings: the study's.
        room: where batches are kept.
        num_workers: processes that decode.
        doing: is told what takes time.
    """

    ids = calibration_ids(train, score, settings["calib_images"], settings["seed"])
    images = Images(model, train, ids, BATCH, room, num_workers, progress_bar("backbone, calibration images"))
    given = Given(
        model,
        list_sites(model, settings["prune"]),
        lambda: images.labelled(model),
        images.pictures,
        settings["seed"],
    )
    mending = open_mending(model, train, score, settings, room, num_workers)
    return Cutter(given, settings["scorer"], settings["refit"], mending, doing)
