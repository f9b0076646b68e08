"""Mending: a slim model learns to answer as the dense model does, on training images without labels.

The closed form cuts every site by itself and solves only for what reads its channels. Mending starts there and moves
all weights that come after the first site: first block after block, then all of them together.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.families.base import Family
from greedyprune.pruning.answers import answer_errors
from greedyprune.pruning.bench import Activations
from greedyprune.pruning.calls import Order
from greedyprune.pruning.damage import pair_costs
from greedyprune.pruning.fit import fit
from greedyprune.pruning.layerwise import Aim, Batch, mend_chain, mend_singles
from greedyprune.pruning.marked import Call, Missing
from greedyprune.pruning.pairing import assigned, counterpart, in_order
from greedyprune.pruning.replay import INPUTS, Replay, Tape
from greedyprune.pruning.shelf import Shelf, Store
from greedyprune.pruning.watcher import UNWATCHED, Watcher
from greedyprune.sites import Change

RATE = 3e-4  # of Adam, for all weights together once the blocks have been mended,
ALONE = 1e-3  # and where there are none
HINT_WEIGHT = 0.1  # of what modules inside give, against the answers


@dataclass(frozen=True)
class Lesson:
    """What a slim model learns of one batch.

    Attributes:
        start: where its pass starts.
        answer: what it should answer.
        hints: what modules of the dense model give, by their name.
    """

    start: Tape
    answer: Answer
    hints: dict[str, Any]


class Mender:
    """Mends one slim model in place; a pure function of the two models and the batches.

    It takes the memory of training on one batch, and what there is room for of what the models make of all images.

    Args:
        family: of the models.
        dense: the dense model, in eval mode; it is not changed.
        slim: a copy of it with a change put on it, in eval mode.
        change: the change.
        steps: of one batch each, for all weights together; before them each block has half as many.
        watcher: is told what takes time, and how far it is.
        room: bytes of memory for what is kept of the images; the rest goes to temporary files.
    """

    def __init__(
        self,
        family: Family,
        dense: nn.Module,
        slim: nn.Module,
        change: Change,
        steps: int,
        watcher: Watcher = UNWATCHED,
        room: int = sys.maxsize,
    ) -> None:
        self.family, self.model, self.steps, self.watcher, self.room = family, slim, steps, watcher, room
        self.pairing = change.pairing
        self.dense, self.slim = (Replay(model, _asker(family, model)) for model in (dense, slim))
        self.aim = Aim(family, slim, change.pairing)
        blocks = family.blocks(slim)
        self.chain = [block for block in blocks if block.chained]
        self.singles = [block for block in blocks if not block.chained]
        self.hints = [(module, 0) for module in family.hints(slim)]

    def on_cached(self, images: Activations) -> list[str]:
        """Mend on images that are kept, for a change that leaves what comes before the first site as it is.

        Args:
            images: training images on a bench of the dense model, with answers of all layers.

        Returns:
            The names of the parameters that learned.
        """
        with Store(self.room) as store, still(self.model):
            called = self._read(images)
            # What comes before the origin is as it was, and is not called any more.
            self.chain = [block for block in self.chain if (block.ends, 0) in called]
            self.hints = [call for call in self.hints if call in called]
            starts = Shelf(store, images.tapes())
            theirs, own = Shelf(store, starts), Shelf(store, starts)
            lessons = Shelf(store, (self._lesson(tape, tape) for tape in starts))
            self._chained(theirs, own)
            own.clear()
            theirs.clear()
            learned = self._after(next(images.batches.iterate())[0], images.origin)
            return self._together(learned, lessons.forever())

    def on_images(self, images: Iterable[Batch], keep: int) -> list[str]:
        """Mend on endless batches of images, for any change.

        Args:
            images: the same whenever they are iterated over.
            keep: how many of them the chained blocks learn from one after another, which are kept.

        Returns:
            The names of the parameters that learned.
        """
        family, dense, slim = self.family, self.dense.model, self.model
        with Store(self.room) as store, still(self.model):
            if self.singles:
                self.watcher.doing("mending blocks by themselves")
                mend_singles(self.aim, self.singles, dense, slim, images, self.steps // 2, self.watcher)
            first = next(iter(images))
            if self.chain:
                order = Order(slim, self.slim.forward, family.inputs(slim, first))
                begin = order.first(self.chain[0].learns)
                theirs, own = (Shelf(store, islice(self._begun(model, images, begin), keep)) for model in (dense, slim))
                self._chained(theirs, own)
                own.clear()
                theirs.clear()
            fast = family.folded(dense)
            passes = Replay(fast, _asker(family, fast))
            lessons = (self._lesson(tape, tape, passes) for tape in map(self._inputs, images))
            return self._together(self._after(first, None), lessons)

    def _inputs(self, images: Batch) -> Tape:
        return Tape.of_inputs(self.family.inputs(self.model, images))

    def _begun(self, model: nn.Module, images: Iterable[Batch], place: Call | None) -> Iterator[Tape]:
        fast = self.family.folded(model)
        known = self.dense.known if model is self.dense.model else self.slim.known
        replay = Replay(fast, _asker(self.family, fast), known)
        for batch in images:
            tape = self._inputs(batch)
            yield tape if place is None else replay.forwarded(tape, place)

    def _read(self, images: Activations) -> set[Call]:
        """See to it that the cached batches hold what both models read; returns the calls that they do not answer."""
        called: set[Call] = set()

        def ended(call: Call, output: Any) -> None:
            called.add(call)

        while True:
            tape = next(iter(images.tapes()))
            try:
                with torch.no_grad():
                    self.slim.answer(tape, ended)
                    self.dense.answer(tape)
                return called - tape.values.keys()
            except Missing as missing:
                images.demand(missing)

    def _lesson(self, start: Tape, theirs: Tape, passes: Replay | None = None) -> Lesson:
        seen: dict[str, Any] = {}
        with torch.no_grad():
            answer = (passes or self.dense).answer(theirs, self._listener(seen))
        return Lesson(start, counterpart(answer, self.pairing), seen)

    def _listener(self, seen: dict[str, Any]) -> Callable[[Call, Any], None]:
        def ended(call: Call, output: Any) -> None:
            if call in self.hints:
                seen[call[0]] = output

        return ended

    def _chained(self, theirs: Shelf[Tape], own: Shelf[Tape]) -> None:
        mend_chain(self.aim, self.chain, self.dense, self.slim, theirs, own, self.steps // 2, self.watcher)

    def _together(self, names: list[str], lessons: Iterator[Lesson]) -> list[str]:
        self.watcher.doing("mending all together")
        parameters = dict(self.model.named_parameters())
        rate = RATE if self.chain or self.singles else ALONE
        fit([parameters[name] for name in names], map(self._loss, lessons), self.steps, rate, self.watcher)
        return names

    def _loss(self, lesson: Lesson) -> Tensor:
        """How far the slim model's answers to a batch are from what they should be.

        For every layer the errors of the answers (see `answer_errors`), and with a small weight those of the hints.
        """
        seen: dict[str, Any] = {}
        answer = self.slim.answer(lesson.start, self._listener(seen))
        inputs, target = lesson.start.values[INPUTS], lesson.answer
        if target.ranked:
            with torch.no_grad():
                target = in_order(target, assigned(pair_costs(answer, target)[0]))
        loss = torch.stack([error.mean() for error in answer_errors(answer, target)]).sum()
        for module, dense in lesson.hints.items():
            loss = loss + HINT_WEIGHT * self.aim.error(module, inputs, seen[module], dense)
        return loss

    def _after(self, images: Batch, origin: Call | None) -> list[str]:
        """The names of the parameters of modules that are called from the origin on."""
        inputs = self.family.inputs(self.model, images)
        called, dense = (Order(model.model, model.forward, inputs) for model in (self.slim, self.dense))
        # The slim model may not have the call any more that the origin is named by.
        early = {call for call in dense.starts if dense.before(call, origin)}
        names = []
        for name, parameter in self.model.named_parameters():
            place = called.first([name.rpartition(".")[0]])
            if parameter.is_floating_point() and place is not None and place not in early:
                names.append(name)
        return names


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """No parameter of a model takes gradients meanwhile, but those that something makes take them."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, takes in before:
            parameter.requires_grad_(takes)


def _asker(family: Family, model: nn.Module) -> Callable[[Any], Answer]:
    return lambda inputs: family.answer(model, inputs)
