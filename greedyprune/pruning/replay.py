"""A model's own forward pass in which everything before a place answers from memory.

A call of a submodule is known by the submodule's name and the number of the call in the pass. What the calls before a
place gave is kept, as far as something after the place reads it; in the next pass these calls answer at once, and the
rest of the model runs as it is written. Nothing of the model has to be cut apart for that.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from greedyprune.pruning.marked import Call, Hollow, Leaf, Missing, Pass, Placeholder, Watched, Watching
from greedyprune.pruning.tree import map_tensors, storages
from greedyprune.sites.change import Change, place_of

INPUTS: Call = ("", -1)  # stands for what the model itself is given
END: Call = ("", 0)  # the place after everything
Forward = Callable[[Any], Any]


class _Reached(Exception):
    """Ends a pass at a place."""


@dataclass(frozen=True, eq=False)
class Tape:
    """What the calls before a place gave, for one batch; `Hollow` where nothing after the place reads it.

    Attributes:
        place: the call before which the model goes on, or which it holds as the last one; None: the start.
        values: by call; also of the inputs.
    """

    place: Call | None
    values: Mapping[Call, Any]

    @classmethod
    def of_inputs(cls, inputs: Any) -> "Tape":
        """Before the first call."""
        return cls(None, {INPUTS: inputs})

    @property
    def size(self) -> int:
        """Bytes of the memory that its tensors lie in."""
        return sum(storages(dict(self.values)).values())


@contextmanager
def _heard(
    model: nn.Module,
    values: Mapping[Call, Any] | None = None,
    began: Callable[[Call], None] | None = None,
    ended: Callable[[Call, Any], None] | None = None,
) -> Iterator[None]:
    """Every call of a submodule answers with its value, where it has one; the others are told when they run."""
    counts: Counter[str] = Counter()
    known = values or {}

    def wrapped(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            this = (name, counts[name])
            counts[name] += 1
            if began is not None:
                began(this)
            output = known[this] if this in known else forward(*args, **kwargs)
            if ended is not None:
                ended(this, output)
            return output

        return call

    modules = [(name, module) for name, module in model.named_modules() if name]
    own = [module.__dict__.get("forward") for _, module in modules]
    for name, module in modules:
        object.__setattr__(module, "forward", wrapped(name, module.forward))
    try:
        yield
    finally:
        for (_, module), before in zip(modules, own, strict=True):
            if before is None:
                object.__delattr__(module, "forward")
            else:
                object.__setattr__(module, "forward", before)


class Order:
    """The order of all calls in a forward pass.

    Args:
        model: in eval mode.
        forward: runs it on inputs.
        inputs: of one batch.
    """

    def __init__(self, model: nn.Module, forward: Forward, inputs: Any) -> None:
        self.starts: dict[Call, int] = {}
        self._names = {id(module): name for name, module in model.named_modules()}
        self._model = model

        def began(call: Call) -> None:
            self.starts[call] = len(self.starts)

        with torch.no_grad(), _heard(model, began=began):
            forward(inputs)

    def first(self, modules: Iterable[str]) -> Call | None:
        """The place before which nothing depends on some modules.

        Args:
            modules: names; one that is never called is felt where the module that it lies in is called first.

        Returns:
            The earliest of their first calls; None: the start of the pass; `END` if there are none.
        """
        found: list[Call] = []
        for module in modules:
            call = self._first(module)
            if call is None:
                return None
            found.append(call)
        return min(found, key=self.starts.__getitem__, default=END)

    def _first(self, module: str) -> Call | None:
        while module:
            own = self._names.get(id(self._model.get_submodule(module)), module)  # a shared module has several names
            if (own, 0) in self.starts:
                return own, 0
            module = module.rpartition(".")[0]
        return None

    def before(self, first: Call | None, second: Call | None) -> bool:
        """Whether one place lies before another; None is the start of the pass."""
        return self._position(first) < self._position(second)

    def _position(self, place: Call | None) -> int:
        if place == END:
            return len(self.starts)
        return -1 if place is None else self.starts[place]


def differing(one: Change, other: Change) -> set[str]:
    """The modules in which two changes of one model differ."""
    tensors, others = one.standing(), other.standing()
    found = {place_of(name)[0] for name in {**tensors, **others} if tensors.get(name) is not others.get(name)}
    for place in {**one.settings, **other.settings}:
        own, its = one.settings.get(place), other.settings.get(place)
        module = isinstance(own, nn.Module) or isinstance(its, nn.Module)
        if type(own) is not type(its) if module else own != its:
            found.add(".".join(filter(None, place)) if module else place[0])
    return found


@dataclass
class Known:
    """What is known of the passes of a model.

    Attributes:
        watched: for a place, and which inputs there are, the tensors of a tape that the rest of a pass reads.
        demanded: tensors that a changed model has asked for.
        written: those that some module changes in place.
        filled: tapes with stand-ins, and the passes over them.
    """

    watched: dict[tuple[Call, bool, tuple[type, ...]], frozenset[Leaf]] = field(default_factory=dict)
    demanded: frozenset[Leaf] = frozenset()
    written: frozenset[Leaf] = frozenset()
    filled: "WeakKeyDictionary[Tape, tuple[Pass, dict[Call, Any]]]" = field(default_factory=WeakKeyDictionary)


class Replay:
    """Forward passes of one model from any place on.

    Args:
        model: in eval mode; its tensors may change between passes, after the place that the pass starts at.
        forward: runs it on inputs.
        known: what is known of the model's passes already, as from one that computes the same.
    """

    def __init__(self, model: nn.Module, forward: Forward, known: "Known | None" = None) -> None:
        self.model, self.forward = model, forward
        self.known = known or Known()

    def answer(self, tape: Tape, ended: Callable[[Call, Any], None] | None = None) -> Any:
        """What the model answers, with what the tape holds taken from it.

        Args:
            tape: of a place before the first change.
            ended: is told every call and what it gave, from memory or not, but none inside one from memory.

        Raises:
            Missing: the tape was made for a model that reads less; see `demand`.
        """
        state, values = self._filled(tape)
        return self._run(tape.place, values, state, ended=ended)

    def output(self, tape: Tape, call: Call) -> Any:
        """What a call gives, with its graph where gradients are on; the pass ends there."""
        found: list[Any] = []

        def ended(each: Call, output: Any) -> None:
            if each == call:
                found.append(output)
                raise _Reached

        try:
            self.answer(tape, ended)
        except _Reached:
            return found[0]
        raise RuntimeError(f"the pass has no call {call}")

    def forwarded(self, tape: Tape, place: Call, after: bool = False) -> Tape:
        """The tape of a later place; the model runs as far as the place, without a graph.

        Args:
            tape: of an earlier place.
            place: the call that the new tape ends before, or
            after: with.
        """
        done: list[Call] = []  # outermost calls so far
        open_: list[int] = []
        outputs: dict[Call, Any] = {}

        def began(call: Call) -> None:
            if call == place and not after:
                raise _Reached
            open_.append(len(done))

        def ended(call: Call, output: Any) -> None:
            del done[open_.pop() :]
            done.append(call)
            outputs[call] = output
            if call == place:
                raise _Reached

        state, values = self._filled(tape)
        try:
            with torch.no_grad():
                self._run(tape.place, values, state, began, ended)
        except _Reached:
            return self._reduced(place, after, {INPUTS: values[INPUTS], **{call: outputs[call] for call in done}})
        raise RuntimeError(f"the pass has no call {place}")

    def demand(self, missing: Missing) -> None:
        """Keep tensors in every tape from now on: a changed model reads them."""
        self.known.demanded |= missing.leaves

    def _run(
        self,
        place: Call | None,
        values: Mapping[Call, Any],
        state: Pass,
        began: Callable[[Call], None] | None = None,
        ended: Callable[[Call, Any], None] | None = None,
    ) -> Any:
        def start(call: Call) -> None:
            # A layer that is skipped is never called: then what runs after it shows that the place is behind.
            if not state.live and call not in values and (call == place or not _holds(call[0], place)):
                state.live = True
            if began is not None:
                began(call)

        state.begin(place is None)
        with _heard(self.model, values, start, ended):
            return self.forward(values[INPUTS])

    def _filled(self, tape: Tape) -> tuple[Pass, dict[Call, Any]]:
        """The values of a tape for a pass: stand-ins where it is hollow, copies of what the model writes into."""
        if tape not in self.known.filled:
            state = Pass()
            stand_in = {c: map_tensors(v, lambda h: h.placeholder(state), Hollow) for c, v in tape.values.items()}
            self.known.filled[tape] = state, stand_in
        state, values = self.known.filled[tape]
        values = dict(values)
        for call in {call for call, _ in self.known.written}.intersection(values):
            values[call] = map_tensors(values[call], lambda t: t if isinstance(t, Placeholder) else t.clone())
        return state, values

    def _reduced(self, place: Call, after: bool, values: Mapping[Call, Any]) -> Tape:
        """A tape with what the rest of the pass reads."""
        # What is read depends on which inputs there are (padding or none), and on nothing else of them.
        key = place, after, tuple(type(each) for each in _items(values[INPUTS]))
        if key not in self.known.watched:
            self.known.watched[key] = self._reads(place, values)
        read = self.known.watched[key] | self.known.demanded

        def kept(leaf: Leaf, tensor: Tensor) -> Any:
            if isinstance(tensor, Placeholder):
                return Hollow(tensor.shape, tensor.dtype, tensor.real_device, leaf)
            return tensor if leaf in read else Hollow(tensor.shape, tensor.dtype, tensor.device, leaf)

        return Tape(place, {call: _numbered(value, call, kept) for call, value in values.items()})

    def _reads(self, place: Call, values: Mapping[Call, Any]) -> frozenset[Leaf]:
        """The tensors that the rest of a pass reads."""
        state = Watching()

        def watched(leaf: Leaf, tensor: Tensor) -> Tensor:
            if isinstance(tensor, Placeholder):
                return Placeholder.of(tensor.plain(), frozenset((leaf,)), state, tensor.real_device)
            return Watched.of(tensor.clone(), frozenset((leaf,)), state, tensor.device)

        with torch.no_grad():
            self._run(place, {call: _numbered(value, call, watched) for call, value in values.items()}, state)
        self.known.written |= state.written
        return state.read


def _holds(module: str, place: Call | None) -> bool:
    """Whether a module holds the one that a place is a call of."""
    return place is not None and place[0].startswith(f"{module}.")


def _numbered(value: Any, call: Call, change: Callable[[Leaf, Tensor], Any]) -> Any:
    """What a call gave, with every tensor changed, which is told by its number."""
    number = count()
    return map_tensors(value, lambda tensor: change((call, next(number)), tensor))


def _items(value: Any) -> list[Any]:
    """What a structure of tuples holds, in order."""
    return [item for each in value for item in _items(each)] if isinstance(value, (tuple, list)) else [value]
