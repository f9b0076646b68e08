"""A model's own forward pass in which everything before a place answers from memory.

What the calls before a place gave is kept, as far as something after the place reads it; in the next pass these calls
answer at once, and the rest of the model runs as it is written. Nothing of the model has to be cut apart for that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from greedyprune.pruning.calls import Forward, heard
from greedyprune.pruning.marked import Call, Hollow, Leaf, Marked, Missing, Pass, Placeholder, Watched, Watching
from greedyprune.pruning.tree import map_tensors, storages, tensors_in

INPUTS: Call = ("", -1)  # stands for what the model itself is given


class _Reached(Exception):
    """Ends a pass at a place."""


@dataclass(frozen=True, eq=False)
class Tape:
    """What the calls before a place gave, for one batch; `Hollow` where nothing after the place reads it.

    Attributes:
        place: the call before which the model goes on, or which it holds as the last one; None: the start.
        values: by call; also of the inputs.
        inside: the modules that were called inside each of these calls, one after another.
    """

    place: Call | None
    values: Mapping[Call, Any]
    inside: Mapping[Call, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of_inputs(cls, inputs: Any) -> "Tape":
        """Before the first call."""
        return cls(None, {INPUTS: inputs})

    @property
    def size(self) -> int:
        """Bytes of the memory that its tensors lie in."""
        return sum(storages(dict(self.values)).values())


@dataclass
class Known:
    """What is known of the passes of a model.

    Attributes:
        watched: for a place, and which inputs there are, the tensors of a tape that the rest of a pass reads.
        demanded: tensors that a changed model has asked for.
        written: those that some module changes in place.
        filled: tapes with stand-ins, and the passes over them.
    """

    watched: dict[tuple[Call, bool, tuple[bool, ...]], frozenset[Leaf]] = field(default_factory=dict)
    demanded: frozenset[Leaf] = frozenset()
    written: frozenset[Leaf] = frozenset()
    filled: "WeakKeyDictionary[Tape, tuple[Pass, dict[Call, Any]]]" = field(default_factory=WeakKeyDictionary)


class _Reaching:
    """A pass on its way to a place.

    Args:
        place: the call that it ends before, or
        after: with.
        tape: that it starts from.
        written: tensors of which copies are kept, as they are when they are given.

    Attributes:
        done: outermost calls so far.
        outputs: what each call gave.
        inside: the modules that were called inside each.
    """

    def __init__(self, place: Call, after: bool, tape: Tape, written: frozenset[Leaf]) -> None:
        self.place, self.after = place, after
        self.done: list[Call] = []
        self.outputs: dict[Call, Any] = {}
        self.inside: dict[Call, Sequence[str]] = {}
        self._answered, self._copied = tape.inside, {call for call, _ in written}
        self._open: list[tuple[int, int]] = []
        self._names: list[str] = []
        self._versions: dict[Call, list[int]] = {}

    def began(self, call: Call) -> None:
        if call == self.place and not self.after:
            raise _Reached
        self._names.append(call[0])
        self._open.append((len(self.done), len(self._names)))

    def ended(self, call: Call, output: Any) -> None:
        done, names = self._open.pop()
        self._names += self._answered.get(call, ())
        del self.done[done:]
        self.done.append(call)
        self.inside[call] = tuple(self._names[names:])
        self.outputs[call] = map_tensors(output, _copy) if call in self._copied else output
        self._versions[call] = _versions(self.outputs[call])
        if call == self.place:
            raise _Reached

    @property
    def written(self) -> frozenset[Leaf]:
        """Tensors of the outermost calls that were changed after they were given."""
        found: dict[Leaf, bool] = {}
        for call in self.done:
            before, now = self._versions[call], _versions(self.outputs[call])
            found |= {(call, number): own != its for number, (own, its) in enumerate(zip(before, now, strict=True))}
        return frozenset(leaf for leaf, differs in found.items() if differs)


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
        answer = self._run(tape, values, state, ended=ended)
        if leaves := _leaves(answer, Placeholder):
            raise Missing(leaves)
        return answer

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
        while True:
            reached = _Reaching(place, after, tape, self.known.written)
            state, values = self._filled(tape)
            given = self.known.filled[tape][1][INPUTS]
            if not self.known.watched:  # nothing is known yet of what becomes of them
                values[INPUTS] = map_tensors(given, _copy)
            inputs = _versions(values[INPUTS])
            try:
                with torch.inference_mode(False), torch.no_grad():
                    self._run(tape, values, state, reached.began, reached.ended)
            except _Reached:
                pass
            else:
                raise RuntimeError(f"the pass has no call {place}")
            written = reached.written
            if inputs != _versions(values[INPUTS]):
                written |= frozenset((INPUTS, number) for number in range(len(inputs)))
            if written <= self.known.written:
                kept = {INPUTS: given, **{call: reached.outputs[call] for call in reached.done}}
                inside = {call: reached.inside[call] for call in reached.done}
                return self._reduced(Tape(place, kept, inside), after)
            # Something was written into after it was there: it runs again, and copies are kept.
            self.known.written |= written

    def demand(self, missing: Missing) -> None:
        """Keep tensors in every tape from now on: a changed model reads them."""
        self.known.demanded |= missing.leaves

    def _run(
        self,
        tape: Tape,
        values: Mapping[Call, Any],
        state: Pass,
        began: Callable[[Call], None] | None = None,
        ended: Callable[[Call, Any], None] | None = None,
    ) -> Any:
        place, left = tape.place, dict(values)

        def start(call: Call) -> None:
            # A layer that is skipped is never called: then what runs after it shows that the place is behind.
            if not state.live and call not in left and (call == place or not _holds(call[0], place)):
                state.live = True
                # What is called after the place is another call, even if one before it had its number: without a
                # layer the numbers are others.
                left.clear()
            if began is not None:
                began(call)

        state.begin(place is None)
        with heard(self.model, left, tape.inside, start, ended):
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
            values[call] = map_tensors(values[call], _copy)
        return state, values

    def _reduced(self, tape: Tape, after: bool) -> Tape:
        """A tape with what the rest of the pass reads."""
        assert tape.place is not None
        # What is read depends on which inputs there are (padding or none), and on nothing else of them.
        key = tape.place, after, tuple(isinstance(each, Tensor) for each in _items(tape.values[INPUTS]))
        if key not in self.known.watched:
            self.known.watched[key] = self._reads(tape)
        read = self.known.watched[key] | self.known.demanded

        def kept(leaf: Leaf, tensor: Tensor) -> Any:
            if isinstance(tensor, Placeholder):
                return Hollow(tensor.shape, tensor.dtype, tensor.real_device, leaf)
            return tensor if leaf in read else Hollow(tensor.shape, tensor.dtype, tensor.device, leaf)

        return replace(tape, values={call: _numbered(value, call, kept) for call, value in tape.values.items()})

    def _reads(self, tape: Tape) -> frozenset[Leaf]:
        """The tensors that the rest of a pass reads."""
        state = Watching()

        def watched(leaf: Leaf, tensor: Tensor) -> Tensor:
            if isinstance(tensor, Placeholder):
                return Placeholder.of(tensor.plain(), frozenset((leaf,)), state, tensor.real_device)
            return Watched.of(tensor.clone(), frozenset((leaf,)), state, tensor.device)

        with torch.no_grad():
            answer = self._run(tape, {c: _numbered(value, c, watched) for c, value in tape.values.items()}, state)
        self.known.written |= state.written
        return state.read | _leaves(answer, Marked)


def _holds(module: str, place: Call | None) -> bool:
    """Whether a module holds the one that a place is a call of."""
    return place is not None and place[0].startswith(f"{module}.")


def _copy(tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, Placeholder) else tensor.clone()


def _versions(value: Any) -> list[int]:
    """How often each tensor of a structure was written into."""
    with torch._C.DisableTorchFunctionSubclass():
        return [0 if tensor.is_inference() else tensor._version for tensor in tensors_in(value)]


def _leaves(value: Any, kind: type[Marked]) -> frozenset[Leaf]:
    """What the marked tensors of a structure were made of."""
    return frozenset().union(*(tensor.leaves for tensor in tensors_in(value) if isinstance(tensor, kind)))


def _numbered(value: Any, call: Call, change: Callable[[Leaf, Tensor], Any]) -> Any:
    """What a call gave, with every tensor changed, which is told by its number."""
    number = count()
    return map_tensors(value, lambda tensor: change((call, next(number)), tensor))


def _items(value: Any) -> list[Any]:
    """What a structure of tuples holds, in order."""
    return [item for each in value for item in _items(each)] if isinstance(value, (tuple, list)) else [value]
