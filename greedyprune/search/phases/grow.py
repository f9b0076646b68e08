"""`gp` and `modular`, the published schedules: one site after another grows until its AP is good enough."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from greedyprune.errors import UserError
from greedyprune.pruning.growth import candidate_losses, grown
from greedyprune.pruning.kinds import kind_of
from greedyprune.pruning.kinds.channels import ChannelSite
from greedyprune.pruning.transplant import KeptSets, kept_change
from greedyprune.search.options import SearchOptions
from greedyprune.search.phases.base import Ask, Phase, Proposal, Story, Verdict
from greedyprune.sites import AttentionSite, Change
from greedyprune.study.trial import Baseline, Grown, Trial

if TYPE_CHECKING:
    from greedyprune.search.workshop import Workshop


@dataclass(frozen=True)
class Position:
    """Where a search stands, as its trials tell.

    Attributes:
        kept: the kept sets of the sites that are done.
        growing: kept channels so far of the site that grows.
        round: that site's next round.
        subset_map: AP on the subset of the model with the sites that are done.
        full_map: the same on all validation images, where it was measured.
    """

    kept: KeptSets
    growing: tuple[int, ...]
    round: int
    subset_map: float
    full_map: float | None


def position_of(baseline: Baseline, trials: Sequence[Trial]) -> Position:
    """Replay the trials of a search."""
    here = Position({}, (), 0, baseline.subset_map, baseline.full_map)
    for trial in trials:
        if (grew := trial.grown) is None:
            continue
        if grew.done:
            here = Position({**here.kept, grew.site: grew.kept}, (), 0, trial.subset_map, trial.full_map)
        else:
            here = Position(here.kept, grew.kept, grew.round + 1, here.subset_map, here.full_map)
    return here


class GrowPhase(Phase):
    """Sites grow from nothing; the order of sites, the targets and the rule of evaluation are each schedule's own.

    Args:
        options: the search's.
        order: the sites, in the order in which they grow.
    """

    label = "grown"
    colour = "tab:blue"

    def __init__(self, options: SearchOptions, order: Sequence[ChannelSite]) -> None:
        super().__init__(options)
        self.order = list(order)

    def next(self, story: Story) -> Ask | None:
        done = len(position_of(story.baseline, story.trials).kept)
        return Ask(len(story.trials)) if done < len(self.order) else None

    def check(self, trial: Trial, story: Story) -> None:
        here, grew = position_of(story.baseline, story.trials), trial.grown
        if len(here.kept) == len(self.order):
            raise UserError("comes after the last site")
        site = self.order[len(here.kept)]
        if grew is None:
            raise UserError(f"does not say what grew, where round {here.round} of {site.name} comes next")
        if (grew.site, grew.round) != (site.name, here.round):
            raise UserError(f"is round {grew.round} of {grew.site}, where round {here.round} of {site.name} comes next")
        kind_of(site).check_kept(site, grew.kept)
        if not set(here.growing) <= set(grew.kept):
            raise UserError("keeps not all the channels of the round before it")
        widths = {each.name: len(here.kept.get(each.name, range(each.full))) for each in self.order}
        if trial.widths != widths | {site.name: len(grew.kept)}:
            raise UserError(f"has other widths than the {len(grew.kept)} channels of {site.name} and the sites before")

    def propose(self, ask: Ask, story: Story, workshop: "Workshop") -> Proposal:
        here = position_of(story.baseline, story.trials)
        site = self.order[len(here.kept)]
        step = self.options.step(site)
        state, sites = workshop.bench.state, workshop.sites
        base = kept_change(sites, state, here.kept)
        loss = None
        workshop.doing(f"{site.label}: round {here.round + 1}, {len(here.growing)} of {site.full} channels so far")
        if len(here.growing) + step >= site.full:
            # All channels are back: the model is the one before this site, whose AP is known.
            kept = tuple(range(site.full))
        else:
            candidates = draw_candidates(self.options, site, here.growing, here.round)
            losses = torch.zeros(len(candidates))  # where all of them are added there is nothing to choose
            if len(candidates) * site.unit > step:
                losses = candidate_losses(workshop.scoring, site, here.growing, candidates, base)
                loss = losses.min().item()
            kept = grown(site, here.growing, candidates, losses, step)
        change = kept_change(sites, state, {**here.kept, site.name: kept})
        widths = {s.name: len(here.kept.get(s.name, range(s.full))) for s in sites} | {site.name: len(kept)}
        whole = len(kept) == site.full
        step_ = Grown(site.name, here.round, kept, loss, whole)
        return Proposal(widths, change, grown=step_)

    def judge(self, proposal: Proposal, story: Story, workshop: "Workshop") -> Verdict:
        here = position_of(story.baseline, story.trials)
        index, grew = len(here.kept), proposal.grown
        assert grew is not None
        site = self.order[index]
        target = self.site_target(index, story.baseline)
        if grew.done:
            subset_map, full_map, done = here.subset_map, here.full_map, True
        else:
            tolerance = 1 - self.options.growth(site).map_tol
            subset_map, full_map, done = self._evaluated(proposal, site, target, tolerance, story, workshop)
        ended = Grown(grew.site, grew.round, grew.kept, grew.loss, done)
        return Verdict(target, subset_map, full_map, done, ended)

    def again(self, trial: Trial, trials: Sequence[Trial], workshop: "Workshop") -> Change:
        kept: KeptSets = {}
        for each in trials[: list(trials).index(trial) + 1]:
            if each.grown is not None:
                kept[each.grown.site] = each.grown.kept
        return kept_change(workshop.sites, workshop.bench.state, kept)

    def site_target(self, index: int, baseline: Baseline) -> float:
        """AP that site `index` of the order aims at; it is done at (1 - map_tol) times this."""
        raise NotImplementedError

    def _evaluated(
        self,
        proposal: Proposal,
        site: ChannelSite,
        target: float,
        tolerance: float,
        story: Story,
        workshop: "Workshop",
    ) -> tuple[float, float | None, bool]:
        """AP on the subset, on all images where it was measured, and whether the site is done."""
        raise NotImplementedError


class GpPhase(GrowPhase):
    """`gp`: front to back; the target falls by `site_decay` a site, and all images decide."""

    name = "gp"

    def site_target(self, index: int, baseline: Baseline) -> float:
        return baseline.full_map * max(0.0, 1 - self.options.site_decay * index)

    def _evaluated(
        self,
        proposal: Proposal,
        site: ChannelSite,
        target: float,
        tolerance: float,
        story: Story,
        workshop: "Workshop",
    ) -> tuple[float, float | None, bool]:
        options, evaluator = self.options.growth(site), workshop.evaluator
        gate = options.map_tol if options.skip_eval_converge is None else options.skip_eval_converge
        subset_map, found = evaluator.subset_map(proposal.change)
        if subset_map < (1 - gate) * target * story.baseline.subset_ratio:
            return subset_map, None, False
        full_map = evaluator.full_map(found, proposal.change)
        return subset_map, full_map, full_map >= tolerance * target


class ModularPhase(GrowPhase):
    """`modular`: all attention, then all else; the subset decides, and the target falls by what each site may skip."""

    name = "modular"

    def site_target(self, index: int, baseline: Baseline) -> float:
        skipped = (self.options.growth(site).skip_eval_converge or 0.0 for site in self.order[:index])
        return baseline.subset_map * math.prod(1 - each for each in skipped)

    def _evaluated(
        self,
        proposal: Proposal,
        site: ChannelSite,
        target: float,
        tolerance: float,
        story: Story,
        workshop: "Workshop",
    ) -> tuple[float, float | None, bool]:
        subset_map, found = workshop.evaluator.subset_map(proposal.change)
        done = subset_map >= tolerance * target
        return subset_map, workshop.evaluator.full_map(found, proposal.change) if done else None, done


def attention_first(sites: Sequence[ChannelSite]) -> list[ChannelSite]:
    """All attention front to back, then all else."""
    return sorted(sites, key=lambda site: not isinstance(site, AttentionSite))


def draw_candidates(options: SearchOptions, site: ChannelSite, kept: Sequence[int], round_: int) -> list[int]:
    """Units to score in a round, by their first channels: a function of the seed, the site and the round alone.

    Every group is drawn from equally, and never less than a round must add.
    """
    wanted, on = options.growth(site).num_evaluate, set(kept)
    added = math.ceil(min(options.step(site), site.full - len(on)) / site.unit)
    need = math.ceil(max(wanted, added) / site.groups)
    rng = np.random.default_rng([options.seed, zlib.crc32(site.name.encode()), round_])
    drawn: list[int] = []
    for group in range(site.groups):
        start = group * site.group_width
        units = range(start, start + site.group_width, site.unit)
        left = np.array([c for c in units if c not in on], dtype=np.int64)
        count = len(left) if wanted == 0 else min(need, len(left))
        drawn += rng.permutation(left)[:count].tolist()
    return sorted(drawn)
