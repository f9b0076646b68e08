"""`tools/bench_search.py`: how fast a search scores and evaluates, on random weights and generated images."""

import argparse
import contextlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median
from typing import Any, TypeVar

import numpy as np
import torch
from pycocotools.coco import COCO
from rich.table import Table
from torch import nn

from greedyprune.cli import Parser, add_device_arguments, open_device
from greedyprune.errors import UserError
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.evaluate import describe_device
from greedyprune.evaluation.vectorized import CocoEvaluator
from greedyprune.models import MODELS, Detector, build_model
from greedyprune.models.criterion import Criterion
from greedyprune.models.matcher import Target
from greedyprune.models.postprocess import postprocess
from greedyprune.pruning.prefix import Prefix, advance, begin, finish, site_place
from greedyprune.pruning.score import candidate_losses, grown_site
from greedyprune.pruning.scorers import Given, make_cuts
from greedyprune.pruning.scorers.exact import SCORING_IMAGES, candidate_count
from greedyprune.pruning.sites import Site, list_sites
from greedyprune.ranges import BATCH, COUNT, COUNT_OR_NONE, PIXELS, Range
from greedyprune.report import open_console
from greedyprune.text import plain_text

T = TypeVar("T")

PUBLISHED_FORWARDS = 1_500_000  # of images, in the published search of DN-DETR-R50 on COCO
VAL_IMAGES = 5_000  # of COCO val2017
CLASSES = 91  # COCO's largest category id and one
OBJECTS = 7  # in an image of COCO, on average
DETECTIONS = 100  # of an image
CANDIDATES = Range(int, 2, 256)  # two are told apart, and every one is a channel of its own of the narrowest site
_SIDE = Range(int, 32, PIXELS.high)


@dataclass(frozen=True)
class SiteSpeed:
    """What was measured at one site; seconds are medians.

    Attributes:
        site: the site.
        plain: seconds of one candidate on one image, from the image.
        cached: the same from the site's prefix.
        ratio: median of plain / cached, each of two runs one right after the other.
        prefix: seconds of an image from the features to the site.
        calibration: seconds of an image in the closed form's calibration of this site alone.
        cut: seconds that the closed form takes then.
        same: both ways rank the candidates alike.
        difference: largest relative difference of a candidate's two losses.
        spread: largest relative difference of the candidates' losses.
    """

    site: Site
    plain: float
    cached: float
    ratio: float
    prefix: float
    calibration: float
    cut: float
    same: bool
    difference: float
    spread: float


@dataclass(frozen=True)
class Profile:
    """Where a search's time goes, in seconds for one image.

    Attributes:
        features: the backbone and what follows it up to the Transformer.
        transformer: the whole Transformer with the heads.
        suffix: the part of it that runs for a proposal, on average over all sites.
        loss: matching and the detection loss.
        detections: post-processing.
        ap: COCO's AP.
        calibration: the closed form's calibration of all sites.
    """

    features: float
    transformer: float
    suffix: float
    loss: float
    detections: float
    ap: float
    calibration: float


class Bench:
    """A detector with random weights, and one batch of generated images.

    Args:
        model: in eval mode, on its device.
        images: in the batch.
        size: their height and width in pixels.
    """

    def __init__(self, model: Detector, images: int, size: tuple[int, int]) -> None:
        self.model, self.count, self.size = model, images, size
        self.device = next(model.parameters()).device
        draw = torch.Generator().manual_seed(0)
        self.images = [torch.randn(3, *size, generator=draw).to(self.device) for _ in range(images)]
        self.targets: list[Target] = []
        for _ in range(images):
            labels = torch.randint(1, CLASSES, (OBJECTS,), generator=draw)
            boxes = 0.1 + 0.3 * torch.rand(OBJECTS, 4, generator=draw)
            self.targets.append({"labels": labels.to(self.device), "boxes": boxes.to(self.device)})
        self.criterion = Criterion(CLASSES)
        self.timed(lambda: self.plain_loss(list_sites(model)[0], 0))  # the first run prepares kernels
        self.start, self.features = self.timed(self.begin)

    def timed(self, call: Callable[[], T]) -> tuple[T, float]:
        """What a call returns, and its seconds for one image."""
        self._wait()
        started = time.perf_counter()
        result = call()
        self._wait()
        return result, (time.perf_counter() - started) / self.count

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.no_grad()
    def begin(self) -> Prefix:
        return begin(self.model.features(self.images))

    @torch.inference_mode()
    def at(self, site: Site) -> Prefix:
        return advance(self.model, self.start, site_place(site))

    @torch.inference_mode()
    def plain_loss(self, site: Site, candidate: int) -> float:
        """The published score: everything runs from the images on."""
        with grown_site(self.model, site, ()) as grower:
            grower.switch_on(candidate)
            return float(self.criterion.total(self.criterion(self.model(self.images), self.targets)))

    def cached_loss(self, site: Site, candidate: int, prefix: Prefix) -> float:
        """What the engine does."""
        batches = [(prefix, self.targets)]
        return float(candidate_losses(self.model, site, (), [candidate], batches, self.criterion))

    def measure_site(self, site: Site, candidates: int) -> SiteSpeed:
        """Candidates of an empty site one after another, each in both ways."""
        prefix, at_site = self.timed(lambda: self.at(site))
        losses, seconds = [], []
        for candidate in range(0, site.width, site.width // candidates)[:candidates]:
            plain, slow = self.timed(partial(self.plain_loss, site, candidate))
            cached, fast = self.timed(partial(self.cached_loss, site, candidate, prefix))
            losses.append((plain, cached))
            seconds.append((slow, fast))
        found = np.array(losses)  # [candidates, 2]
        ranks = found.argsort(0)
        given = Given(self.model, [site], lambda: [(self.start, self.targets)])
        moments, calibration = self.timed(lambda: given.moments[site.name])
        # A few images do not fill all directions of a wide site, and the cut would end early.
        filling = torch.randn(2 * site.width, site.width, device=self.device)
        moments.rows.add(filling, torch.ones(len(filling), dtype=torch.float64, device=self.device))
        width = site.width // 2 // site.groups * site.groups
        _, cut = self.timed(lambda: make_cuts("basis", given)[site.name].tensors(width))
        return SiteSpeed(
            site,
            plain=median(slow for slow, _ in seconds),
            cached=median(fast for _, fast in seconds),
            ratio=median(slow / fast for slow, fast in seconds),
            prefix=at_site,
            calibration=calibration,
            cut=cut * self.count,
            same=bool((ranks[:, 0] == ranks[:, 1]).all()),
            difference=float((abs(found[:, 0] - found[:, 1]) / found[:, 0]).max()),
            spread=float(np.ptp(found[:, 0]) / found[:, 0].min()),
        )

    def measure_profile(self, ap_images: int) -> Profile:
        sites = list_sites(self.model)
        prefix, suffixes = self.start, {}
        with torch.inference_mode():
            for place in sorted({site_place(site) for site in sites}):
                prefix = advance(self.model, prefix, place)
                outputs, suffixes[place] = self.timed(partial(finish, self.model, prefix))
            _, loss = self.timed(lambda: self.criterion.total(self.criterion(outputs, self.targets)))
            _, detections = self.timed(lambda: self._detections(outputs))
        given = Given(self.model, sites, lambda: [(self.start, self.targets)])
        _, calibration = self.timed(lambda: given.moments)
        return Profile(
            features=self.features,
            transformer=suffixes[site_place(sites[0])],
            suffix=fmean(suffixes[site_place(site)] for site in sites),
            loss=loss,
            detections=detections,
            ap=ap_seconds(ap_images, self.size),
            calibration=calibration,
        )

    def _detections(self, outputs: dict[str, Any]) -> Detections:
        sizes = torch.tensor([self.size] * self.count)
        return Detections.from_results(postprocess(outputs, sizes, DETECTIONS), range(self.count))


def ap_seconds(images: int, size: tuple[int, int]) -> float:
    """Seconds of an image in COCO's AP, over so many generated images with random detections."""
    rng = np.random.default_rng(0)

    def boxes(count: int) -> np.ndarray:
        return rng.uniform(0, min(size) / 2, (count, 4))

    truths = [
        {"id": i + 1, "image_id": i % images, "category_id": int(c), "bbox": list(b), "area": b[2] * b[3], "iscrowd": 0}
        for i, (c, b) in enumerate(zip(rng.integers(1, 81, OBJECTS * images), boxes(OBJECTS * images), strict=True))
    ]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "height": size[0], "width": size[1]} for i in range(images)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, 81)],
        "annotations": truths,
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it tells that it does so
        coco.createIndex()
    count = DETECTIONS * images
    found = Detections(np.arange(count) % images, rng.integers(1, 81, count), boxes(count), rng.random(count))
    evaluator = CocoEvaluator(coco, range(images))
    started = time.perf_counter()
    evaluator.ap(found)
    return (time.perf_counter() - started) / images


def start_zeros(model: Detector) -> None:
    """Random numbers for the weights that a detector starts with as zeros, so that its boxes depend on its channels."""
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.xavier_uniform_(parameter)


def speed_table(speeds: Sequence[SiteSpeed], candidates: int) -> Table:
    """One candidate on one image."""
    table = Table(
        title="exact score: seconds of one candidate on one image, measured",
        caption=f"choices: both ways rank the {candidates} candidates in the same order; how far apart the two losses "
        "of a candidate are at most, and the losses of two candidates",
    )
    for name in ("site", "plain", "with cache", "ratio"):
        table.add_column(name, justify="left" if name == "site" else "right")
    table.add_column("choices")
    for speed in speeds:
        table.add_row(
            speed.site.name,
            f"{speed.plain:.4f}",
            f"{speed.cached:.4f}",
            f"{speed.ratio:.2f}",
            f"{'identical' if speed.same else 'DIFFERENT'} ({speed.difference:.0e}, {speed.spread:.0e})",
        )
    return table


def order_table(speeds: Sequence[SiteSpeed], features: float) -> Table:
    """Every channel of a site; see the caption.

    Args:
        speeds: of the sites.
        features: seconds of an image in the backbone.
    """
    table = Table(
        title="full order of one site, in seconds, estimated",
        caption=f"exact: measured above x candidates counted over all rounds x {SCORING_IMAGES} images; basis: the "
        f"backbone and the calibration of that site alone on {SCORING_IMAGES} images, measured on fewer, and its cut",
    )
    for name in ("site", "candidates", "plain", "with cache", "basis", "plain / basis", "cache / basis"):
        table.add_column(name, justify="left" if name == "site" else "right")
    for speed in speeds:
        candidates = candidate_count(speed.site)
        runs = candidates * SCORING_IMAGES
        plain = runs * speed.plain
        cached = runs * speed.cached + SCORING_IMAGES * (features + speed.prefix)
        basis = SCORING_IMAGES * (features + speed.calibration) + speed.cut
        row = f"{candidates:,}", f"{plain:,.0f}", f"{cached:,.0f}", f"{basis:,.1f}"
        table.add_row(speed.site.name, *row, f"{plain / basis:,.0f}", f"{cached / basis:,.0f}")
    return table


def profile_table(profile: Profile) -> Table:
    """Where the time goes, for one image."""
    table = Table(title="where the time goes, milliseconds an image")
    table.add_column("part")
    table.add_column("", justify="right")
    parts = {
        "backbone (once for each image)": profile.features,
        "whole Transformer": profile.transformer,
        "Transformer from the site on, mean over all sites": profile.suffix,
        "matching and loss, when candidates are scored": profile.loss,
        "post-processing, when AP is measured": profile.detections,
        "COCO's AP": profile.ap,
        "calibration of all sites, closed form": profile.calibration,
    }
    for name, seconds in parts.items():
        table.add_row(name, f"{1000 * seconds:.2f}")
    return table


def search_table(profile: Profile, evaluations: int, cuts: float) -> Table:
    """The whole search on COCO val2017, extrapolated.

    Args:
        profile: measured.
        evaluations: full evaluations of a search with the closed form.
        cuts: seconds to cut every site.
    """
    answer = profile.detections + profile.ap
    plain = PUBLISHED_FORWARDS * (profile.features + profile.transformer + answer)
    once = VAL_IMAGES * (profile.features + profile.transformer)  # the backbone, and every layer once on the way
    cached = once + PUBLISHED_FORWARDS * (profile.suffix + answer)
    closed = SCORING_IMAGES * (profile.features + profile.calibration) + cuts + VAL_IMAGES * profile.features
    closed += evaluations * VAL_IMAGES * (profile.transformer + answer)
    table = Table(title="a whole search on COCO val2017, estimated from the above")
    table.add_column("search")
    table.add_column("hours", justify="right")
    table.add_column("times", justify="right")
    for name, seconds in (
        (f"published: {PUBLISHED_FORWARDS:,} image forwards, each from the image", plain),
        ("the same forwards, each from the site; the backbone once", cached),
        (f"closed form: calibration, cuts, {evaluations} evaluations of {VAL_IMAGES:,} images", closed),
    ):
        table.add_row(name, f"{seconds / 3600:,.1f}", f"{plain / seconds:,.1f}")
    return table


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        "Measure how long a site's full order takes: by the published score, from the cache, and in closed form. "
        "Random weights, generated images; a part is run, the rest is counted."
    )
    parser.add_argument("--model", choices=tuple(MODELS), default="dn_detr", help="which detector")
    parser.add_argument("--backbone", type=plain_text, default="resnet50", help="its backbone")
    parser.add_argument(
        "--layer", type=COUNT_OR_NONE.parse, default=0, metavar="N", help="layer of the sites; 0 is the hardest"
    )
    parser.add_argument("--images", type=BATCH.parse, default=1, metavar="N", help="images at once")
    parser.add_argument("--candidates", type=CANDIDATES.parse, default=4, metavar="N", help="measured at every site")
    size = parser.add_argument_group("image size")
    size.add_argument("--height", type=_SIDE.parse, default=800, metavar="N", help="pixels")
    size.add_argument("--width", type=_SIDE.parse, default=1066, metavar="N", help="pixels")
    parser.add_argument(
        "--ap_images", type=COUNT.parse, default=1000, metavar="N", help="images on which COCO's AP is timed"
    )
    parser.add_argument(
        "--evaluations", type=COUNT.parse, default=30, metavar="N", help="of a search with the closed form, assumed"
    )
    add_device_arguments(parser, amp=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the arguments say, and print the tables.

    Args:
        argv: the command line.

    Raises:
        UserError: no such device, model or backbone, or a layer that the model does not have.
    """
    args = parser().parse_args(argv)
    device = open_device(args)
    torch.manual_seed(0)
    model = build_model(args.model, num_classes=CLASSES, backbone=args.backbone)
    start_zeros(model)
    sites = list_sites(model)
    chosen = [site for site in sites if site.layer == args.layer]
    if {site.part for site in chosen} != {"encoder", "decoder"}:
        raise UserError(f"--layer {args.layer}: the encoder or the decoder has no such layer")
    bench = Bench(model.to(device).eval(), args.images, (args.height, args.width))
    console = open_console()
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    console.print(
        f"{args.model}, {args.backbone}, random weights; {args.images} generated image(s) of {args.width} x "
        f"{args.height} at once, {args.candidates} candidates a site; float32 on {describe_device(device)}{threads}"
    )
    speeds = [bench.measure_site(site, args.candidates) for site in chosen]
    console.print(speed_table(speeds, args.candidates), order_table(speeds, bench.features))
    profile = bench.measure_profile(args.ap_images)
    console.print(profile_table(profile))
    cuts = {(speed.site.part, speed.site.kind): speed.cut for speed in speeds}
    console.print(search_table(profile, args.evaluations, sum(cuts[site.part, site.kind] for site in sites)))
    return 0
