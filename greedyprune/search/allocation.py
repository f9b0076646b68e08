"""How much of every site is kept: the least damage for a cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from greedyprune.answer import Answer
from greedyprune.pruning.bench import Activations, Bench
from greedyprune.pruning.cutter import Cutter
from greedyprune.pruning.damage import DamageTable, divergence, width_grid
from greedyprune.pruning.watcher import UNWATCHED, Watcher
from greedyprune.search.evaluator import last_answers
from greedyprune.search.options import SearchOptions
from greedyprune.search.saving import Saving
from greedyprune.sites import Site, Widths
from greedyprune.study.trial import Trial

TRUST = 2  # steps by which one move may change a site's width


class Facts(Protocol):
    """Where measurements are kept that proposals follow from; a study is one."""

    def facts(self) -> dict[str, Any]: ...

    def set_fact(self, key: str, value: Any) -> None: ...


@dataclass(frozen=True)
class FactsInMemory:
    """Measurements that nothing keeps.

    Attributes:
        known: by name, those that were read from a study among them.
    """

    known: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        return dict(self.known)

    def set_fact(self, key: str, value: Any) -> None:
        self.known[key] = value


class Allocation:
    """Measures the damage of cutting every site, and allocates widths by it.

    Args:
        scoring: images that tell damage apart.
        cutter: makes changes to any widths.
        saving: what sites cost.
        options: of a search: steps of widths.
        facts: where measurements are kept.
        watcher: is told what takes time.
    """

    def __init__(
        self,
        scoring: Activations,
        cutter: Cutter,
        saving: Saving,
        options: SearchOptions,
        facts: Facts,
        watcher: Watcher = UNWATCHED,
    ) -> None:
        self.scoring, self.cutter, self.saving = scoring, cutter, saving
        self.options, self.watcher = options, watcher
        self._facts = facts
        self._dense: list[Answer] | None = None

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


def least_widths(sites: Sequence[Site], options: SearchOptions) -> dict[str, int]:
    """The least width of every site that a search tries; of counts of which one stays, all but the first leave."""
    widths = {site.name: width_grid(site, options.step(site))[0] for site in sites}
    seen: set[str] = set()
    for site in sites:
        group = getattr(site, "one_of", "")
        if group and group not in seen:
            seen.add(group)
            widths[site.name] = site.full
    return widths
