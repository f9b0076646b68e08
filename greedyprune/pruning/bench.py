"""A detector on which changes are tried, and cached activations of the images that they are tried on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from greedyprune.answer import Answer
from greedyprune.families.base import Family
from greedyprune.pruning.calls import END, Order, differing
from greedyprune.pruning.marked import Call, Missing
from greedyprune.pruning.replay import INPUTS, Known, Replay, Tape
from greedyprune.sites import Change, CountSite, RatioSite, Site, installed
from greedyprune.sites.change import place_of

Targets = list[dict[str, Any]]
NOTHING = Change()
NOWHERE: Call = ("", -2)  # no place at all


class Batches(Protocol):
    """Batches of normalised images `[3, h, w]` with their targets; the same whenever they are gone through."""

    @property
    def ids(self) -> Sequence[int]:
        """The images, in order."""
        ...

    def __len__(self) -> int:
        """How many images."""
        ...

    def iterate(self, first: int = 0) -> Iterator[tuple[Sequence[Tensor], Targets]]:
        """The batches from one on."""
        ...


class Room:
    """Memory budget of all cached activations of a search.

    Args:
        size: bytes.

    Attributes:
        used: bytes that are taken.
    """

    def __init__(self, size: int) -> None:
        self.size, self.used = size, 0
        self._owners: list[Activations] = []

    @property
    def spare(self) -> int:
        """Bytes that nothing takes."""
        return max(0, self.size - self.used)

    def enter(self, owner: "Activations") -> None:
        """From now on `owner` takes from this room; it has to make way for those that entered before it."""
        self._owners.append(owner)

    def take(self, owner: "Activations", size: int) -> bool:
        """Take so many bytes more (less, where negative); False: there is no room, and nothing is taken."""
        for other in reversed(self._owners[self._owners.index(owner) + 1 :]):
            while self.used + size > self.size and other.cached:
                other.drop()
        if size > 0 and self.used + size > self.size:
            return False
        self.used += size
        return True


class Bench:
    """A detector on which changes are tried, one after another; between two of them it is as it was.

    Args:
        family: of the detector.
        model: the dense detector in eval mode; the bench works on a copy.
        sites: what changes are about.
        batches: some images; the first batch shows in which order the detector calls its parts.

    Attributes:
        model: the copy.
        state: its tensors by name, which stay as they are.
        origin: the place before which no change is felt; None: the start.
        image_forwards: images that went through the detector, or a part of it.
    """

    def __init__(self, family: Family, model: nn.Module, sites: Sequence[Site], batches: Batches) -> None:
        self.family = family
        self.model = family.slim(model, NOTHING).eval().requires_grad_(False)
        self.state = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        self.image_forwards = 0
        images, _ = next(batches.iterate())
        self._order = Order(self.model, self._forward(self.model, False), family.inputs(self.model, images))
        self._begins = {module: site.begins for site in sites if site.begins for module in site_modules(site)}
        self._modules = {module for site in sites for module in site_modules(site)}
        self.origin = self.place(self._modules)
        self._known = {last_only: Known() for last_only in (False, True)}
        self._named = dict(self.model.named_modules(remove_duplicate=False))

    def place(self, modules: set[str]) -> Call | None:
        """The place before which nothing depends on some modules; None: the start."""
        return self._order.first(self._begins.get(module, module) for module in modules)

    def felt(self, change: Change) -> Call | None:
        """The place before which nothing depends on a change."""
        return self.place(differing(change, NOTHING))

    @contextmanager
    def calling(self, place: Call | None, change: Change) -> Iterator[bool]:
        """Modules that are gone for a change on the bench are there from a place on, which may be the call of one.

        Gives whether there are any.
        """
        settings = {}
        for attribute, value in change.settings.items():
            name = ".".join(filter(None, attribute))
            if isinstance(value, nn.Module) and not self.before(self.place({name}), place):
                settings[attribute] = self._named[name]
        with installed(self.model, Change(settings=settings)):
            yield bool(settings)

    @property
    def mended_from(self) -> Call | None:
        """The place before which nothing changes but blocks that are mended by themselves, if anything does."""
        blocks = self.family.blocks(self.model)
        singles = tuple(f"{block.ends}." for block in blocks if not block.chained)
        chained = {module for block in blocks if block.chained for module in block.learns}
        others = {module for module in self._modules if not f"{module}.".startswith(singles)}
        return self.place(chained | others) if singles else self.origin

    def before(self, first: Call | None, second: Call | None) -> bool:
        """Whether one place lies before another."""
        return self._order.before(first, second)

    def replay(self, last_only: bool, fast: bool = False) -> Replay:
        """Forward passes of the model as it is now, or of its deployed form."""
        model = self.family.folded(self.model) if fast else self.model
        return Replay(model, self._forward(model, last_only), self._known[last_only])

    def _forward(self, model: nn.Module, last_only: bool) -> Callable[[Any], Answer]:
        return lambda inputs: self.family.answer(model, inputs, last_only)


def site_modules(site: Site) -> set[str]:
    """The modules that a change of a site touches."""
    found = {place_of(part.name)[0] for part in site.slices} | {setting.module for setting in site.settings}
    if isinstance(site, CountSite):
        found |= {module for modules in site.skips for module in modules}
    return found | {site.module} if isinstance(site, RatioSite) else found


class Activations:
    """Cached activations of some images, as far as the changes that are tried leave them as they are.

    The first batches are cached, as many as there is room for: at the bench's origin, so that what lies before it runs
    once for them, and at the place before which the changes of late do not differ. The other batches are computed from
    the images whenever they are asked for. What comes out is the same, to rounding.

    Args:
        bench: the detector.
        batches: the images.
        room: memory budget. Images that are needed more often are to be made first.
        last_only: answers of the last layer alone are wanted.
        origin: where the batches are cached; changes before it are computed from the images. Default: the bench's.

    Attributes:
        origin: where the batches are cached.
    """

    def __init__(
        self,
        bench: Bench,
        batches: Batches,
        room: Room,
        last_only: bool = True,
        origin: Call | None = NOWHERE,
    ) -> None:
        self.bench, self.batches, self.last_only = bench, batches, last_only
        self.origin = bench.origin if origin == NOWHERE else origin
        self._room = room
        self._start: list[Tape] = []
        self._at: list[Tape] = []
        self._targets: list[Targets] = []
        # The place of `_at`, and the change that was on the bench when it was reached.
        self._place, self._base = self.origin, NOTHING
        self._full = False
        self._filled = False
        room.enter(self)

    def __len__(self) -> int:
        """How many images."""
        return len(self.batches)

    @property
    def cached(self) -> int:
        """How many batches are cached."""
        return len(self._start)

    def fill(self) -> None:
        """Cache as many batches as there is room for; this is done when the first answers are asked for."""
        if self._filled:
            return
        self._filled = True
        replay = self.bench.replay(self.last_only, fast=True)
        for images, targets in self.batches.iterate():
            tape = self._tape(replay, images)
            if not self._room.take(self, tape.size):
                break
            self._start.append(tape)
            self._at.append(tape)
            self._targets.append(targets)

    def answers(self, change: Change = NOTHING, graph: bool = False) -> Iterator[tuple[Answer, Targets]]:
        """The answers with a change on the bench, batch after batch, with the targets.

        Args:
            change: what is tried; it is on the bench while this is gone through.
            graph: keep the graphs of the answers.
        """
        for _, answer, targets in self._passes(change, graph, whole=graph):
            yield answer, targets

    def passes(self, change: Change = NOTHING, graph: bool = False) -> Iterator[tuple[Any, Answer, Targets]]:
        """The same, with the inputs of each batch, of which only what the rest of the pass reads has numbers.

        Every pass starts at the origin, so that whoever listens to submodules hears all calls after it.
        """
        return self._passes(change, graph, whole=True)

    def _passes(self, change: Change, graph: bool, whole: bool) -> Iterator[tuple[Any, Answer, Targets]]:
        """Passes from the origin, or from as far as the change lets them; those with graphs are whole."""
        self.fill()
        bench = self.bench
        bench.image_forwards += len(self)
        with installed(bench.model, change):
            if bench.before(bench.felt(change), self.origin):
                yield from self._from_images(0, graph)
                return
            if not whole:
                self._turn(change)
            # Convolutions are worth it: their norms are folded into them.
            fast = not graph and any(tensor.dim() == 4 for tensor in change.standing().values())
            replay = bench.replay(self.last_only, fast)
            index = 0
            while index < self.cached:  # others may take room in the meantime
                answer = self._answer(replay, index, change, graph, whole)
                yield self._start[index].values[INPUTS], answer, self._targets[index]
                index += 1
            yield from self._from_images(index, graph)

    def tapes(self) -> Iterator[Tape]:
        """Every batch at the origin."""
        self.fill()
        yield from self._start
        if self.cached * len(self._targets[0] if self._targets else ()) < len(self):
            replay = self.bench.replay(self.last_only, fast=True)
            for images, _ in self.batches.iterate(self.cached):
                yield self._tape(replay, images)

    def demand(self, missing: Missing) -> None:
        """Keep tensors that a changed model reads in every batch from now on."""
        self.bench.replay(self.last_only).demand(missing)
        replay = self.bench.replay(self.last_only, fast=True)
        for index, (images, _) in zip(range(self.cached), self.batches.iterate(), strict=False):
            self._renew(index, self._tape(replay, images))

    def drop(self) -> None:
        """Give back the room of the last cached batch."""
        self._room.take(self, -self._held(-1))
        for each in (self._at, self._start, self._targets):
            each.pop()

    def _tape(self, replay: Replay, images: Sequence[Tensor]) -> Tape:
        """A batch at the origin."""
        tape = Tape.of_inputs(self.bench.family.inputs(self.bench.model, images))
        return tape if self.origin is None else replay.forwarded(tape, self.origin)

    def _turn(self, change: Change) -> None:
        """Go to the place before which a change does not differ from the last one, back or forth."""
        place = self.bench.place(differing(change, self._base))
        if self.bench.before(place, self._place):
            for index, start in enumerate(self._start):
                self._put(index, start)
            self._place, self._base, self._full = self.origin, NOTHING, False
            place = self.bench.felt(change)
        if place not in (None, END) and self.bench.before(self._place, place):
            self._place, self._full = place, False
        self._base = change

    def _held(self, index: int) -> int:
        """Bytes that a batch takes."""
        start, tape = self._start[index], self._at[index]
        return start.size + (0 if tape is start else tape.size)

    def _renew(self, index: int, tape: Tape) -> None:
        """Another tape of a batch at the origin, which holds more: it is taken whether there is room for it or not."""
        self._room.used += tape.size - self._held(index)
        self._start[index] = self._at[index] = tape

    def _put(self, index: int, tape: Tape) -> bool:
        """Another tape of a batch, if there is room for it."""
        start, old = self._start[index], self._at[index]
        more, less = (0 if each is start else each.size for each in (tape, old))
        if not self._room.take(self, more - less):
            return False
        if index < self.cached:  # room was not made by dropping the batch itself
            self._at[index] = tape
        return True

    def _answer(self, replay: Replay, index: int, change: Change, graph: bool, whole: bool) -> Answer:
        while True:
            tape = self._start[index] if whole else self._at[index]
            try:
                if not whole and tape.place != self._place and self._place is not None and not self._full:
                    with self.bench.calling(self._place, change) as others:
                        tape = (self.bench.replay(self.last_only) if others else replay).forwarded(tape, self._place)
                    self._full = not self._put(index, tape)
                with torch.set_grad_enabled(graph), torch.inference_mode(not graph):
                    answer: Answer = replay.answer(tape)
                return answer
            except Missing as missing:
                # The change reads something that the dense detector does not: from now on it is kept.
                replay.demand(missing)
                images, _ = next(self.batches.iterate(index))
                with self.bench.calling(self.origin, change):
                    self._renew(index, self._tape(self.bench.replay(self.last_only, fast=True), images))

    def _from_images(self, first: int, graph: bool) -> Iterator[tuple[Any, Answer, Targets]]:
        """Batches from the images themselves."""
        replay = None
        for images, targets in self.batches.iterate(first):
            replay = replay or self.bench.replay(self.last_only, fast=not graph)
            inputs = self.bench.family.inputs(self.bench.model, images)
            with torch.set_grad_enabled(graph), torch.inference_mode(not graph):
                answer = replay.answer(Tape.of_inputs(inputs))
            yield inputs, answer, targets
