"""Which site is pruned next, what mAP it must hold, and how it grows: pure functions of the options and the history."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from greedyprune.errors import UserError
from greedyprune.pruning.kept import group_counts
from greedyprune.pruning.sites import Site
from greedyprune.ranges import Count, CountOrNone, Seed, ShareBelowOne, check_ranges

SCHEDULES = ("gp", "modular")


@dataclass(frozen=True)
class KindOptions:
    """How sites of one kind, attention or FFN, grow.

    Attributes:
        map_tol: a site is done when its AP is at least (1 - map_tol) * target.
        skip_eval_converge: the full evaluation is skipped while the subset's AP is below (1 - this) * target.
        num_evaluate: candidates scored in a round, drawn at random; 0: all.
        step: channels that a round adds, rounded up to a multiple of the site's grain.
    """

    map_tol: ShareBelowOne
    skip_eval_converge: ShareBelowOne
    num_evaluate: CountOrNone
    step: Count

    def __post_init__(self) -> None:
        check_ranges(self, lambda name: f"--{name}")


@dataclass(frozen=True)
class ScheduleOptions:
    """Everything about a schedule that decides the result of a search.

    Attributes:
        schedule: `gp` or `modular`.
        attn: how attention sites grow.
        ffn: how FFN sites grow.
        site_decay: `gp`: the target falls by this share of the dense AP with every site.
        seed: seed of the candidate draws.
    """

    schedule: str
    attn: KindOptions
    ffn: KindOptions
    site_decay: ShareBelowOne
    seed: Seed

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UserError(f"--schedule {self.schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}")
        check_ranges(self, lambda name: f"--{name}")

    def step(self, kind: str) -> int:
        """Channels that a round adds to a site, by its kind."""
        return (self.ffn if kind == "ffn" else self.attn).step

    def kind(self, site: Site) -> KindOptions:
        return self.ffn if site.kind == "ffn" else self.attn

    def to_dict(self) -> dict[str, Any]:
        """Flat, for a study's settings."""
        values: dict[str, Any] = {}
        for key, value in asdict(self).items():
            values |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        return values


def order_sites(sites: Sequence[Site], schedule: str) -> list[Site]:
    """`gp`: front to back. `modular`: all attention front to back, then all FFN."""
    if schedule == "modular":
        return [s for s in sites if s.kind != "ffn"] + [s for s in sites if s.kind == "ffn"]
    return list(sites)


def site_target(options: ScheduleOptions, sites: Sequence[Site], index: int, dense_map: float) -> float:
    """AP that site `index` of the order aims at; it is done at (1 - map_tol) times this.

    `gp`: `dense * (1 - site_decay * index)`. `modular`: `dense * (1 - skip_eval_converge)^index`, with the setting of
    each site passed so far.
    """
    if options.schedule == "gp":
        return dense_map * max(0.0, 1 - options.site_decay * index)
    return dense_map * math.prod(1 - options.kind(site).skip_eval_converge for site in sites[:index])


def draw_candidates(options: ScheduleOptions, site: Site, kept: Sequence[int], round_: int) -> list[int]:
    """Units to score in a round, by their first channels: a function of the seed, the site and the round alone.

    Every group is drawn from equally, and never less than a round must add.
    """
    kind, on = options.kind(site), set(kept)
    added = math.ceil(min(kind.step, site.width - len(on)) / site.unit)
    need = math.ceil(max(kind.num_evaluate, added) / site.groups)
    rng = np.random.default_rng([options.seed, zlib.crc32(site.name.encode()), round_])
    drawn: list[int] = []
    for group in range(site.groups):
        start = group * site.group_width
        units = range(start, start + site.group_width, site.unit)
        left = np.array([c for c in units if c not in on], dtype=np.int64)
        count = len(left) if kind.num_evaluate == 0 else min(need, len(left))
        drawn += rng.permutation(left)[:count].tolist()
    return sorted(drawn)


def grow(site: Site, kept: Sequence[int], candidates: Sequence[int], losses: Tensor, step: int) -> tuple[int, ...]:
    """The kept set with the best candidates added: the same number in every group, `step` channels in all.

    Ties go to the lower channel.
    """
    per_group = math.ceil(step / site.grain)  # units
    ranked = sorted(zip(losses.tolist(), candidates, strict=True))
    added: list[int] = []
    counts = group_counts(site, ())
    for _, channel in ranked:
        group = channel // site.group_width
        if counts[group] < per_group:
            counts[group] += 1
            added += range(channel, channel + site.unit)
    return tuple(sorted([*kept, *added]))


def is_done(options: ScheduleOptions, site: Site, target: float, map_: float | None) -> bool:
    """Whether an AP (None: not measured) is good enough for the site."""
    return map_ is not None and map_ >= (1 - options.kind(site).map_tol) * target


def skips_full(options: ScheduleOptions, site: Site, target: float, subset_map: float) -> bool:
    """The early skip: the subset's AP is already too low for a full evaluation."""
    return subset_map < (1 - options.kind(site).skip_eval_converge) * target
