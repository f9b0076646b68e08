"""What phases work with: the bench, cuts, damage tables, mending, evaluation and costs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from greedyprune.pruning.bench import NOTHING, Activations, Bench, Room
from greedyprune.pruning.cutter import Cutter
from greedyprune.pruning.layerwise import Batch
from greedyprune.pruning.mend import Mender
from greedyprune.pruning.watcher import UNWATCHED, Watcher
from greedyprune.search.allocation import Allocation, Facts
from greedyprune.search.evaluator import Evaluator
from greedyprune.search.options import SearchOptions
from greedyprune.search.saving import Saving
from greedyprune.sites import Change, Widths


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


class Workshop(Allocation):
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
        super().__init__(scoring, cutter, saving, options, facts, watcher)
        self.model, self.evaluator, self.material = model, evaluator, material
        self._mended: tuple[Widths, Change] | None = None

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
