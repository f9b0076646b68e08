"""Training images of the closed form and of mending: which they are, and a cutter that works with them."""

from collections.abc import Callable, Mapping
from typing import Any

from greedyprune.data.coco import CocoDetection
from greedyprune.errors import UserError
from greedyprune.evaluation.evaluate import subset_ids
from greedyprune.models import Detector
from greedyprune.pruning.scorers import Given
from greedyprune.pruning.sites import list_sites
from greedyprune.report import progress_bar
from greedyprune.search.cutter import Cutter, Mending
from greedyprune.search.images import Images, Room
from greedyprune.search.lessons import Lessons

BATCH = 8  # images in a step of mending


def scoring_ids(train: CocoDetection, images: int, seed: int) -> list[int]:
    """Training images with objects, whose loss tells candidates or damage apart."""
    return subset_ids([image for image in train.image_ids if train.coco.getAnnIds(image)], images, seed)


def calibration_ids(train: CocoDetection, score: list[int], images: int, seed: int) -> list[int]:
    """Other training images.

    Raises:
        UserError: there are none.
    """
    others = sorted(set(train.image_ids) - set(score))
    if not others:
        raise UserError(
            f"all {len(score)} training images measure damage, none is left to calibrate on: "
            "give a smaller --score_images"
        )
    return subset_ids(others, images, seed)


def lessons(
    model: Detector, train: CocoDetection, score: list[int], augment: str, seed: int, num_workers: int
) -> Lessons:
    """All training images but the scoring ones, augmented."""
    ids, device = calibration_ids(train, score, 0, seed), next(model.parameters()).device
    return Lessons(train, ids, augment, model.info, BATCH, seed, device, num_workers)


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

    def open_images(number: int, text: str) -> Images:
        ids = calibration_ids(train, score, number, settings["seed"])
        return Images(model, train, ids, BATCH, room, num_workers, progress_bar(f"backbone, {text}"))

    images = open_images(settings["calib_images"], "calibration images")
    given = Given(
        model,
        list_sites(model, settings["prune"]),
        lambda: images.labelled(model),
        images.pictures,
        settings["seed"],
    )
    mended = calibration_ids(train, score, settings["mend_images"], settings["seed"])
    augment = settings.get("mend_augment", "detr")  # the earliest studies do not say
    mending = Mending(
        settings["mend_steps"],
        lambda: open_images(settings["mend_images"], "images to mend with"),
        lessons(model, train, score, augment, settings["seed"], num_workers),
        -(-len(mended) // BATCH),
        room,
    )
    return Cutter(given, settings["scorer"], settings["refit"], mending, doing)
