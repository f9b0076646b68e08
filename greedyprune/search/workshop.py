"""What phases work with: the bench, cuts, damage tables, mending, evaluation and costs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.pruning.bench import NOTHING, Activations, Bench, Room
from greedyprune.pruning.cutter import Cutter
from greedyprune.pruning.damage import DamageTable, divergence, width_grid
from greedyprune.pruning.layerwise import Batch
from greedyprune.pruning.mend import Mender
from greedyprune.pruning.watcher import UNWATCHED, Watcher
from greedyprune.search.evaluator import Evaluator, last_answers
from greedyprune.search.options import SearchOptions
from greedyprune.search.saving import Saving
from greedyprune.sites import Change, Site, Widths
from greedyprune.study.trial import Trial

TRUST = 2  # steps by which one move may change a site's width


class Facts(Protocol):
    """Where measurements are kept that proposals follow from; a study is one."""

    def facts(self) -> dict[str, Any]: ...

    def set_fact(self, key: str, value: Any) -> None: ...


@dataclass(frozen=True)
class Material:
    """What slim models are mended with.

    Attributes:
        cached: makes the images that a slim model learns from whose first site lies after what is cached.
        endless: what any other learns from: endless batches of images, the same whenever they are iterated over.
        keep: how many of those its parts learn from one after another.
        room: memory for what is kept of them.
    """

    cached: Callable[[], Activations]
    endless: Iterable[Batch]
    keep: int
    room: Room

    def mended(self, bench: Bench, change: Change, steps: int, watcher: Watcher = UNWATCHED) -> Change:
        """A change of the bench's model with the weights that its slim model has after mending."""
        slim = bench.family.slim(bench.model, change)
        mender = Mender(bench.family, bench.model, slim, change, steps, watcher, self.room.spare)
        if bench.before(bench.felt(change), bench.mended_from):
            learned = mender.on_images(self.endless, self.keep)
        else:
            learned = mender.on_cached(self.cached())
        state: Mapping[str, Tensor] = slim.state_dict()
        return change | Change({name: state[name].detach() for name in learned}, {}, NOTHING.pairing)


class Workshop:
    """What phases work with.

    Args:
        model: the dense detector.
        scoring: images that tell damage, or candidates, apart.
        cutter: makes changes to any widths.
        evaluator: AP.
        saving: what sites cost.
        options: the search's.
        facts: where measurements are kept.
        material: what slim models are mended with; None: none is.
        watcher: is told what takes time.
    """

    def __init__(
        self,
        model: nn.Module,
        scoring: Activations,
        cutter: Cutter,
        evaluator: Evaluator,
        saving: Saving,
        options: SearchOptions,
        facts: Facts,
        material: Material | None,
        watcher: Watcher,
    ) -> None:
        self.model, self.scoring, self.cutter, self.evaluator = model, scoring, cutter, evaluator
        self.saving, self.options, self.material, self.watcher = saving, options, material, watcher
        self._facts = facts
        self._dense: list[Answer] | None = None
        self._mended: tuple[Widths, Change] | None = None

    @property
    def bench(self) -> Bench:
        return self.scoring.bench

    @property
    def sites(self) -> Sequence[Site]:
        return self.cutter.sites

    def doing(self, text: str) -> None:
        """Tell what takes time."""
        self.watcher.doing(text)

    def share(self, widths: Widths) -> float:
        """Share of the sites' dense cost that widths have."""
        return self.saving.of_sites(widths) / self.saving.sites

    def best_widths(self, table: DamageTable, share: float) -> tuple[dict[str, int], float]:
        """The widths of least damage within a share of the sites' cost, and that damage."""
        budget, formula = share * self.saving.sites, self.saving.formula
        if formula is not None and formula.pairs:
            return table.best_chained_widths(formula.own, formula.pairs, self.saving.of_sites, budget)
        return table.best_widths(self.saving.of_site, self.saving.of_sites, budget)

    def dense_table(self) -> DamageTable:
        """The damage of every site, cut alone."""
        grids = {site.name: width_grid(site, self.options.step(site)) for site in self.sites}
        return self._table("dense", grids, {})

    def table_around(self, trial: Trial, name: str) -> DamageTable:
        """The damage of changing each site of a trial by up to `TRUST` steps, one at a time.

        Args:
            trial: the trial.
            name: what the study calls it.
        """
        grids = {}
        for site in self.sites:
            step, now = self.options.step(site), trial.widths[site.name]
            near = (now + step * offset for offset in range(-TRUST, TRUST + 1))
            grids[site.name] = sorted({min(site.full, width) for width in near if width >= max(site.least, 0)})
        return self._table(name, grids, trial.widths)

    def _table(self, name: str, grids: Mapping[str, list[int]], around: Widths) -> DamageTable:
        """The damage table around a model; each site's row is in the study from when it was measured."""
        keys = {site.name: f"damage from {name}, {site.name}" for site in self.sites}
        known = self._facts.facts()
        base: float | None = None
        for number, site in enumerate(self.sites, start=1):
            if keys[site.name] in known:
                continue
            if base is None:
                self.doing("statistics of the calibration images")
                base = self.damage(around)
                _ = self.cutter.cuts
            self.doing(f"damage of {site.label} ({number} of {len(self.sites)})")
            row = []
            for width in grids[site.name]:
                same = width == around.get(site.name, site.full)
                row.append(0.0 if same else self.damage({**around, site.name: width}) - base)
            known[keys[site.name]] = row
            self._facts.set_fact(keys[site.name], row)
        points = {site.name: (grids[site.name], known[keys[site.name]]) for site in self.sites}
        return DamageTable(self.sites, points, {site.name: self.options.step(site) for site in self.sites})

    def damage(self, widths: Widths) -> float:
        """Mean `divergence` of the answers at some widths from the dense ones, on the scoring images."""
        if self._dense is None:
            self._dense = list(last_answers(self.scoring))
        change = self.cutter.change(widths)
        if not change:
            return 0.0
        answers = last_answers(self.scoring, change)
        total = sum(
            divergence(own, aim, change.pairing).sum().item() for own, aim in zip(answers, self._dense, strict=True)
        )
        return total / len(self.scoring)

    def mended(self, widths: Widths) -> Change:
        """The change to some widths after mending."""
        if self._mended is None or self._mended[0] != widths:
            self._mended = dict(widths), self._mend(widths)
        return self._mended[1]

    def _mend(self, widths: Widths) -> Change:
        if self.material is None:
            raise ValueError("there is nothing to mend with")
        change = self.cutter.change(widths)
        return self.material.mended(self.bench, change, self.options.mend.steps, self.watcher) if change else change
