"""From a detector, data and options to what a search works with."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.data.batches import DatasetBatches
from greedyprune.data.coco import CocoDetection
from greedyprune.data.lessons import Lessons
from greedyprune.errors import UserError
from greedyprune.evaluation.evaluate import subset_ids, typical_size
from greedyprune.families.base import Family
from greedyprune.pruning.bench import Activations, Bench, Room
from greedyprune.pruning.cutter import Cutter
from greedyprune.pruning.scorers import given
from greedyprune.pruning.watcher import UNWATCHED, Watcher
from greedyprune.search.cost import CostModel
from greedyprune.search.evaluator import Evaluator
from greedyprune.search.latency import LatencyTable, measure_sites
from greedyprune.search.options import SearchOptions
from greedyprune.search.saving import Saving
from greedyprune.search.workshop import Facts, Material, Workshop
from greedyprune.sites import AttentionSite, HiddenSite, Site

MEND_BATCH = 8  # images in a step of mending, and of calibration
LATENCY_BATCH = 8  # images at once, whose time --cost latency saves
Progress = Callable[[str], Callable[[Iterable[Any]], Iterable[Any]]]


@dataclass(frozen=True)
class Resources:
    """What a search may take, and whom it tells; none of it changes the result.

    Attributes:
        cache_gb: memory budget of cached activations.
        num_workers: processes that decode images.
        progress: from a text to a wrapper of loaders that shows a bar.
        watcher: is told what takes time.
    """

    cache_gb: float = 8.0
    num_workers: int = 0
    progress: Progress = lambda text: lambda loader: loader
    watcher: Watcher = UNWATCHED


@dataclass(frozen=True)
class Chosen:
    """The images of a search, by their ids.

    Attributes:
        val: the validation set.
        train: the training set.
        full: validation images of a full evaluation.
        subset: those of the subset evaluation.
        score: training images with objects, which tell damage or candidates apart.
        calibration: other training images, for the closed form.
        mending: those that slim models are mended on.
        others: all training images but those that score.
    """

    val: CocoDetection
    train: CocoDetection
    full: list[int]
    subset: list[int]
    score: list[int]
    calibration: list[int]
    mending: list[int]
    others: list[int]

    @classmethod
    def choose(cls, options: SearchOptions, val: CocoDetection, train: CocoDetection) -> "Chosen":
        """A function of the options, the seed and the data.

        Raises:
            UserError: there are no validation images, no training images with objects, or none left to calibrate on.
        """
        images, seed = options.images, options.seed
        full = subset_ids(val.image_ids, images.eval_images, seed)
        if not full:
            raise UserError(f"{val.root} has no validation images, and a search measures AP on them")
        labelled = [image for image in train.image_ids if train.coco.imgToAnns.get(image)]
        if not labelled:
            raise UserError(
                f"no training image in {train.folder} has an object, and a search scores on such; annotate some, or "
                "give other data as --coco_path"
            )
        wanted = images.score_images or (16 if options.published else 64)
        score = subset_ids(labelled, wanted, seed)
        others = sorted(set(train.image_ids) - set(score))
        if not options.published and not others:
            raise UserError(
                f"all {len(score)} training images measure damage, none is left to calibrate on: "
                "give a smaller --score_images"
            )
        calibration = subset_ids(others, images.calib_images, seed)
        mending = subset_ids(others, options.mend.images, seed)
        return cls(val, train, full, subset_ids(full, images.subset_images, seed), score, calibration, mending, others)


def searched_sites(family: Family, model: nn.Module, options: SearchOptions) -> list[Site]:
    """The sites whose widths are searched, front to back.

    Raises:
        UserError: a part that the detector does not have, or one without sites.
    """
    published = family.published if options.published else family.searched
    parts: set[str] = set() if options.prune else set(published)
    for name in options.prune:
        if name not in family.parts and name not in family.groups:
            known = ", ".join((*family.parts, *family.groups))
            raise UserError(f"--prune {name}: a {family.name} has the parts {known}")
        parts.update(family.groups.get(name, (name,)))
    sites = [site for site in family.sites(model) if site.part in parts]
    if options.published:
        sites = [site for site in sites if isinstance(site, (AttentionSite, HiddenSite))]
        grown = {site.part for site in sites}
        for name in options.prune:
            if name in family.parts and name not in grown:
                raise UserError(
                    f"--prune {name} does nothing in this call: --schedule {options.schedule} grows channels, and it "
                    "has none; leave it out"
                )
    if not sites:
        raise UserError(f"{', '.join(sorted(parts))}: this {family.name} has no sites there")
    held = {site.name for site in sites}
    # A layer that is not searched cannot leave, and takes nothing with it.
    return [site if site.inside in held else replace(site, inside="") for site in sites]


def settings_of(
    family: Family, model: nn.Module, sites: Sequence[Site], options: SearchOptions, chosen: Chosen
) -> dict[str, Any]:
    """Everything that decides the result of a search, for its study."""
    return {
        **options.settings(),
        "family": family.name,
        "sites": [site.name for site in sites],
        "whole_heads": any(isinstance(site, AttentionSite) and site.unit > 1 for site in sites),
        "weights": weights_hash(model),
        "val_data": chosen.val.fingerprint,
        "train_data": chosen.train.fingerprint,
        "full_images": len(chosen.full),
    }


def weights_hash(model: nn.Module) -> str:
    """sha256 of all tensors, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def open_workshop(
    family: Family,
    model: nn.Module,
    sites: Sequence[Site],
    chosen: Chosen,
    options: SearchOptions,
    facts: Facts,
    resources: Resources,
) -> Workshop:
    """What the phases of a search work with.

    Args:
        family: of the detector.
        model: the dense detector, in eval mode on its device.
        sites: those that are searched.
        chosen: the images.
        options: the search's.
        facts: where measurements are kept.
        resources: what it may take.
    """
    room = Room(round(resources.cache_gb * 1e9))

    def batches(data: CocoDetection, ids: Sequence[int], size: int, text: str) -> DatasetBatches:
        return DatasetBatches(data, ids, size, resources.num_workers, resources.progress(text))

    # In the order of how often they are needed.
    rest = sorted(set(chosen.full) - set(chosen.subset))
    published = options.published
    scored = batches(chosen.train, chosen.score, options.batch_size, "scoring images")
    bench = Bench(family, model, sites, scored)
    scoring = Activations(bench, scored, room, last_only=not published)
    subset = Activations(bench, batches(chosen.val, chosen.subset, options.batch_size, "validation subset"), room)
    others = Activations(bench, batches(chosen.val, rest, options.batch_size, "validation images"), room)
    calibration = scoring
    if not published:
        images = batches(chosen.train, chosen.calibration, MEND_BATCH, "calibration images")
        calibration = Activations(bench, images, room, last_only=False)
    cost = CostModel(family, model, sites, typical_size(chosen.val, chosen.full))
    latency = _latency(bench, sites, chosen, options, facts) if options.cost == "latency" else None
    return Workshop(
        model,
        scoring,
        Cutter(given(calibration, sites, options.seed), options.scorer, options.refit),
        Evaluator(subset, others, chosen.val, options.metric),
        Saving(cost, options.cost, latency),
        options,
        facts,
        _material(bench, chosen, options, room, resources) if options.mends else None,
        resources.watcher,
    )


def _material(bench: Bench, chosen: Chosen, options: SearchOptions, room: Room, resources: Resources) -> Material:
    device = next(bench.model.parameters()).device
    text = resources.progress("images to mend with")
    batches = DatasetBatches(chosen.train, chosen.mending, MEND_BATCH, resources.num_workers, text)
    form = bench.family.form(bench.model)
    return Material(
        cache(lambda: Activations(bench, batches, room, last_only=False, origin=bench.mended_from)),
        Lessons(
            chosen.train,
            chosen.others,
            options.mend.augment,
            form,
            MEND_BATCH,
            options.seed,
            device,
            resources.num_workers,
        ),
        -(-len(chosen.mending) // MEND_BATCH),
        room,
    )


def _latency(bench: Bench, sites: Sequence[Site], chosen: Chosen, options: SearchOptions, facts: Facts) -> LatencyTable:
    """The measured time of every site, from the study where it is known: proposals follow from it."""
    known = facts.facts().get("latency")
    if known is None:
        device = next(bench.model.parameters()).device
        numbers = range(min(LATENCY_BATCH, len(chosen.val)))
        images: list[Tensor] = [chosen.val[number][0].to(device) for number in numbers]
        known = measure_sites(bench, sites, images, options).stored()
        facts.set_fact("latency", known)
    return LatencyTable.of(known)
