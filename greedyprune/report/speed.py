"""Tables of how fast a search scores and evaluates, and estimates of a whole one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from greedyprune.pruning.scorers.exact import SCORING_IMAGES
from greedyprune.report.console import add_columns
from greedyprune.search.speed import Profile, SiteSpeed

PUBLISHED_FORWARDS = 1_500_000  # of images, in the published search of DN-DETR-R50 on COCO
VAL_IMAGES = 5_000  # of COCO val2017


@dataclass(frozen=True)
class OrderTime:
    """Seconds until all channels of a site are in order, estimated from what was measured.

    Attributes:
        site: its name.
        candidates: of all rounds of the published score.
        plain: by the published score, each forward from the image.
        cached: by the same from the site's place.
        basis: by the closed form.
    """

    site: str
    candidates: int
    plain: float
    cached: float
    basis: float

    @classmethod
    def of(cls, speed: SiteSpeed, before: float) -> "OrderTime":
        """Of a site.

        Args:
            speed: of the site.
            before: seconds of an image in what comes before the first place that is cached.
        """
        runs = speed.candidates * SCORING_IMAGES
        return cls(
            speed.site,
            speed.candidates,
            plain=runs * speed.plain,
            cached=runs * speed.cached + SCORING_IMAGES * (before + speed.reach),
            basis=SCORING_IMAGES * (before + speed.calibration) + speed.cut,
        )


@dataclass(frozen=True)
class PartTime:
    """Time of a part of a search.

    Attributes:
        part: which.
        milliseconds: of an image.
    """

    part: str
    milliseconds: float


@dataclass(frozen=True)
class SearchTime:
    """A whole search on COCO val2017, estimated from what was measured.

    Attributes:
        search: which.
        hours: that it takes.
        times: how many of it one published search takes.
    """

    search: str
    hours: float
    times: float


def part_times(profile: Profile) -> list[PartTime]:
    """Where the time goes."""
    parts = {
        "the detector as it is, from the image": profile.plain,
        "before the first site, deployed (once for each image)": profile.before,
        "from the first site on": profile.rest,
        "from the site on, mean over all sites": profile.suffix,
        "matching and loss, when candidates are scored": profile.loss,
        "post-processing, when AP is measured": profile.detections,
        "COCO's AP": profile.ap,
        "statistics of all sites, closed form": profile.calibration,
    }
    return [PartTime(part, 1000 * seconds) for part, seconds in parts.items()]


def search_times(profile: Profile, evaluations: int, cuts: float) -> list[SearchTime]:
    """A whole search on COCO val2017, extrapolated.

    Args:
        profile: measured.
        evaluations: full evaluations of a search with the closed form.
        cuts: seconds to cut every site.
    """
    answer = profile.detections + profile.ap
    plain = PUBLISHED_FORWARDS * (profile.plain + answer)
    # Every image comes once to the first site, and once through every layer on the way.
    cached = VAL_IMAGES * (profile.before + profile.rest) + PUBLISHED_FORWARDS * (profile.suffix + answer)
    closed = SCORING_IMAGES * (profile.before + profile.calibration) + cuts + VAL_IMAGES * profile.before
    closed += evaluations * VAL_IMAGES * (profile.rest + answer)
    return [
        SearchTime(name, seconds / 3600, plain / seconds)
        for name, seconds in (
            (f"published: {PUBLISHED_FORWARDS:,} image forwards, each from the image", plain),
            ("the same forwards, each from the site; what comes before the first one once", cached),
            (f"closed form: statistics, cuts, {evaluations} evaluations of {VAL_IMAGES:,} images", closed),
        )
    ]


def speed_table(speeds: Iterable[SiteSpeed], candidates: int) -> Table:
    """One candidate on one image."""
    table = Table(
        title="exact score: seconds of one candidate on one image, measured",
        caption=f"choices: both ways rank the {candidates} candidates in the same order; how far apart the two losses "
        "of a candidate are at most, and the losses of two candidates",
    )
    add_columns(table, "site", "plain", "with cache", "ratio")
    table.add_column("choices")
    for speed in speeds:
        table.add_row(
            speed.site,
            f"{speed.plain:.4f}",
            f"{speed.cached:.4f}",
            f"{speed.ratio:.2f}",
            f"{'identical' if speed.same else 'DIFFERENT'} ({speed.difference:.0e}, {speed.spread:.0e})",
        )
    return table


def order_table(orders: Iterable[OrderTime]) -> Table:
    """Every channel of a site; see the caption."""
    table = Table(
        title="full order of one site, in seconds, estimated",
        caption=f"exact: measured above x candidates counted over all rounds x {SCORING_IMAGES} images; basis: what "
        f"comes before the first site and the statistics of that site alone on {SCORING_IMAGES} images, measured on "
        "fewer, and its cut",
    )
    add_columns(table, "site", "candidates", "plain", "with cache", "basis", "plain / basis", "cache / basis")
    for order in orders:
        row = f"{order.candidates:,}", f"{order.plain:,.0f}", f"{order.cached:,.0f}", f"{order.basis:,.1f}"
        ratios = f"{order.plain / order.basis:,.0f}", f"{order.cached / order.basis:,.0f}"
        table.add_row(order.site, *row, *ratios)
    return table


def part_table(parts: Iterable[PartTime]) -> Table:
    """Where the time goes, for one image."""
    table = Table(title="where the time goes, milliseconds an image")
    add_columns(table, "part", "ms")
    for part in parts:
        table.add_row(part.part, f"{part.milliseconds:.2f}")
    return table


def search_table(searches: Sequence[SearchTime]) -> Table:
    """The whole search on COCO val2017."""
    table = Table(title="a whole search on COCO val2017, estimated from the above")
    add_columns(table, "search", "hours", "times")
    for search in searches:
        table.add_row(search.search, f"{search.hours:,.1f}", f"{search.times:,.1f}")
    return table
