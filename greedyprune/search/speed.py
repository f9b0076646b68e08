"""Times of what a search does: the published score from images and from the cache, and the closed form."""

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median
from typing import TypeVar

import numpy as np
import torch
from pycocotools.coco import COCO
from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.vectorized import CocoEvaluator
from greedyprune.families.base import Family
from greedyprune.pruning.bench import NOTHING, Activations, Bench, Room, Targets
from greedyprune.pruning.growth import candidate_losses
from greedyprune.pruning.kinds import kind_of
from greedyprune.pruning.kinds.channels import ChannelSite
from greedyprune.pruning.labels import loss_of
from greedyprune.pruning.marked import Call
from greedyprune.pruning.replay import Tape
from greedyprune.pruning.scorers import given
from greedyprune.pruning.scorers.exact import candidate_count
from greedyprune.sites import Change, installed

T = TypeVar("T")

OBJECTS = 7  # in an image of COCO, on average
CATEGORIES = 80  # of COCO
DETECTIONS = 100  # of an image


class Generated:
    """One batch of generated images with objects.

    Args:
        count: images.
        size: their height and width in pixels.
        classes: labels are drawn below it.
        device: where images and targets are.
    """

    def __init__(self, count: int, size: tuple[int, int], classes: int, device: torch.device) -> None:
        draw = torch.Generator().manual_seed(0)
        self.ids: Sequence[int] = range(count)
        self.size = size
        self.images = [torch.randn(3, *size, generator=draw).to(device) for _ in range(count)]
        self.targets: Targets = []
        for _ in range(count):
            labels = torch.randint(1, classes, (OBJECTS,), generator=draw)
            boxes = 0.1 + 0.3 * torch.rand(OBJECTS, 4, generator=draw)
            self.targets.append({"labels": labels.to(device), "boxes": boxes.to(device)})

    def __len__(self) -> int:
        return len(self.images)

    def iterate(self, first: int = 0) -> Iterator[tuple[Sequence[Tensor], Targets]]:
        """The batch, once."""
        if first == 0:
            yield self.images, self.targets


@dataclass(frozen=True)
class SiteSpeed:
    """What was measured at one site; seconds are medians.

    Attributes:
        site: its name.
        candidates: of all rounds of the published score, counted.
        plain: seconds of one candidate on one image, from the image.
        cached: the same from the site's place.
        ratio: median of plain / cached, each of two runs one right after the other.
        reach: seconds of an image from the first place that is cached to the site's.
        calibration: seconds of an image in the closed form's statistics of this site alone.
        cut: seconds that the closed form takes then.
        same: both ways rank the candidates alike.
        difference: largest relative difference of a candidate's two losses.
        spread: largest relative difference of the candidates' losses.
    """

    site: str
    candidates: int
    plain: float
    cached: float
    ratio: float
    reach: float
    calibration: float
    cut: float
    same: bool
    difference: float
    spread: float


@dataclass(frozen=True)
class Profile:
    """Where a search's time goes, in seconds for one image.

    Attributes:
        plain: the whole detector as it is, from the image.
        before: what comes before the first place that is cached, in its deployed form.
        rest: the detector from there on.
        suffix: the part that runs for a proposal, on average over all sites.
        loss: matching and the detection loss.
        detections: post-processing.
        ap: COCO's AP.
        calibration: the closed form's statistics of all sites.
    """

    plain: float
    before: float
    rest: float
    suffix: float
    loss: float
    detections: float
    ap: float
    calibration: float


class SpeedBench:
    """A detector and one batch of images, on which the parts of a search are timed.

    Args:
        family: of the detector.
        model: in eval mode, on its device.
        sites: those of a search.
        batch: the images.

    Raises:
        UserError: the family has no loss.
    """

    def __init__(self, family: Family, model: nn.Module, sites: Sequence[ChannelSite], batch: Generated) -> None:
        self.family, self.sites, self.batch = family, sites, batch
        self.bench = Bench(family, model, sites, batch)
        self.device = next(model.parameters()).device
        self.loss = loss_of(family, self.bench.model, "the exact score")
        self.scored = self._activations()
        self.replay = self.bench.replay(last_only=False)
        self.start = next(self.scored.tapes())
        self._answer(self.start)  # the first run prepares kernels
        self.before = self._before()

    def timed(self, call: Callable[[], T]) -> tuple[T, float]:
        """What a call returns, and its seconds for one image."""
        self._wait()
        started = time.perf_counter()
        result = call()
        self._wait()
        return result, (time.perf_counter() - started) / len(self.batch)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _activations(self) -> Activations:
        """The images, cached before the first site."""
        images = Activations(self.bench, self.batch, Room(sys.maxsize), last_only=False)
        images.fill()
        return images

    @torch.inference_mode()
    def _answer(self, tape: Tape) -> Answer:
        answer: Answer = self.replay.answer(tape)
        return answer

    def _before(self) -> float:
        """Seconds of an image up to the first place that is cached."""
        origin, inputs = self.bench.origin, self.family.inputs(self.bench.model, self.batch.images)
        if origin is None:
            return 0.0
        fast = self.bench.replay(last_only=False, fast=True)
        return self.timed(lambda: fast.forwarded(Tape.of_inputs(inputs), origin))[1]

    def place(self, site: ChannelSite) -> Call | None:
        """The place before which nothing of a site's candidates is felt."""
        return self.bench.felt(self._candidate(site, 0))

    def _candidate(self, site: ChannelSite, candidate: int) -> Change:
        channels = range(candidate, candidate + site.unit)
        return kind_of(site).masked_change(site, self.bench.state, channels)

    @torch.inference_mode()
    def plain_answer(self, change: Change = NOTHING) -> Answer:
        """Everything runs, from the images on."""
        model = self.bench.model
        with installed(model, change):
            return self.family.answer(model, self.family.inputs(model, self.batch.images))

    @torch.inference_mode()
    def plain_loss(self, site: ChannelSite, candidate: int) -> float:
        """The published score of one candidate of an empty site."""
        return float(self.loss(self.plain_answer(self._candidate(site, candidate)), self.batch.targets))

    def cached_loss(self, site: ChannelSite, candidate: int) -> float:
        """The same as the engine computes it."""
        return float(candidate_losses(self.scored, site, (), [candidate]))

    def measure_site(self, site: ChannelSite, candidates: int) -> SiteSpeed:
        """Candidates of an empty site one after another, each in both ways."""
        reach = self._reach(site)
        self.cached_loss(site, 0)  # the cache goes to the site
        losses, seconds = [], []
        units = site.full // site.unit
        for unit in range(0, units, max(1, units // candidates))[:candidates]:
            plain, slow = self.timed(partial(self.plain_loss, site, unit * site.unit))
            cached, fast = self.timed(partial(self.cached_loss, site, unit * site.unit))
            losses.append((plain, cached))
            seconds.append((slow, fast))
        found = np.array(losses)  # [candidates, 2]
        ranks = found.argsort(0)
        calibration, cut = self._closed_form(site)
        return SiteSpeed(
            site.name,
            candidates=candidate_count(site),
            plain=median(slow for slow, _ in seconds),
            cached=median(fast for _, fast in seconds),
            ratio=median(slow / fast for slow, fast in seconds),
            reach=reach,
            calibration=calibration,
            cut=cut,
            same=bool((ranks[:, 0] == ranks[:, 1]).all()),
            difference=float((abs(found[:, 0] - found[:, 1]) / found[:, 0]).max()),
            spread=float(np.ptp(found[:, 0]) / found[:, 0].min()),
        )

    def _reach(self, site: ChannelSite) -> float:
        """Seconds of an image from the first place that is cached to the site's."""
        place = self.place(site)
        if place is None or place == self.bench.origin:
            return 0.0
        self.replay.forwarded(self.start, place)  # what the rest of the pass reads is found out once
        return self.timed(lambda: self.replay.forwarded(self.start, place))[1]

    def _closed_form(self, site: ChannelSite) -> tuple[float, float]:
        """Seconds of an image in a site's statistics, and those of its cut to half its width."""
        known = given(self._activations(), [site])
        moments, calibration = self.timed(lambda: known.moments)
        for reader in moments[site.name].readers:
            # A few images do not fill all directions of a wide site, and the cut would end early.
            width = len(reader.rows.mean)
            filling = torch.randn(2 * width, width, device=self.device)
            reader.rows.add(filling, torch.ones(len(filling), dtype=torch.float64, device=self.device))
        half = max(site.least, site.full // 2 // site.grain * site.grain)
        cut = kind_of(site).cut
        _, seconds = self.timed(lambda: cut(site, known, "basis", True).change(half, self.bench.state))
        return calibration, seconds * len(self.batch)

    def measure_profile(self, ap_images: int) -> Profile:
        """Times of the parts of a whole search; AP is timed on so many generated images."""
        suffixes: dict[Call | None, float] = {}
        places = [self.place(site) for site in self.sites]
        for place in dict.fromkeys(places):
            early = place is None or place == self.bench.origin
            tape = self.start if early or place is None else self.replay.forwarded(self.start, place)
            _, suffixes[place] = self.timed(partial(self._answer, tape))
        answer, plain = self.timed(self.plain_answer)
        _, rest = self.timed(lambda: self._answer(self.start))
        with torch.inference_mode():
            _, loss = self.timed(lambda: self.loss(answer, self.batch.targets))
            _, detections = self.timed(lambda: self._detections(answer))
        known = given(self._activations(), self.sites)
        _, calibration = self.timed(lambda: known.moments)
        return Profile(
            plain=plain,
            before=self.before,
            rest=rest,
            suffix=fmean(suffixes[place] for place in places),
            loss=loss,
            detections=detections,
            ap=ap_seconds(ap_images, self.batch.size),
            calibration=calibration,
        )

    def _detections(self, answer: Answer) -> Detections:
        sizes = torch.tensor([self.batch.size] * len(self.batch))
        found = self.family.detections(self.bench.model, answer, sizes, DETECTIONS)
        return Detections.from_results(found, list(self.batch.ids))


def ap_seconds(images: int, size: tuple[int, int]) -> float:
    """Seconds of an image in COCO's AP, over so many generated images with random detections."""
    rng = np.random.default_rng(0)

    def boxes(count: int) -> np.ndarray:
        return rng.uniform(0, min(size) / 2, (count, 4))

    objects = zip(rng.integers(1, CATEGORIES + 1, OBJECTS * images), boxes(OBJECTS * images), strict=True)
    truths = [
        {"id": i + 1, "image_id": i % images, "category_id": int(c), "bbox": list(b), "area": b[2] * b[3], "iscrowd": 0}
        for i, (c, b) in enumerate(objects)
    ]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "height": size[0], "width": size[1]} for i in range(images)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, CATEGORIES + 1)],
        "annotations": truths,
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it tells that it does so
        coco.createIndex()
    count = DETECTIONS * images
    labels = rng.integers(1, CATEGORIES + 1, count)
    found = Detections(np.arange(count) % images, labels, boxes(count), rng.random(count))
    evaluator = CocoEvaluator(coco, range(images))
    started = time.perf_counter()
    evaluator.ap(found)
    return (time.perf_counter() - started) / images
