"""`layers`, `layers_least_damage`: whole layers leave, as many of the encoder as of the decoder."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from greedyprune.classical.base import Method, Pruned, Subject
from greedyprune.errors import UserError
from greedyprune.pruning.damage import divergence
from greedyprune.pruning.transplant import kept_change
from greedyprune.ranges import COUNT
from greedyprune.sites import Change, CountSite, Site

Stacks = dict[str, list[CountSite]]  # by the group of which at least one layer stays; empty: all may leave


@dataclass(frozen=True)
class Layers(Method):
    """So many layers leave of every stack: of encoder and decoder, or of blocks that give what they get in shape.

    The last ones leave: a decoder with losses on all its layers has learned to answer with the one before them, too.
    Or that which moves the answers least, then among what is left the next one.

    Attributes:
        looks: the second of these; it looks at images.
    """

    amounts = COUNT
    name: str = "layers"
    label: str = "layers of every stack, from the end"
    looks: bool = False

    def prune(self, subject: Subject, amount: float) -> Pruned:
        parts = subject.family.removable(subject.model)
        if parts and not _stacks(subject.whole.values()):
            return Pruned(self._without_parts(subject, parts, int(amount)))
        leaving = self._leaving(subject, int(amount))
        present = _stacks(subject.sites)
        gone: list[str] = []
        for number in range(max(leaving.values())):
            for group in (group for group, count in leaving.items() if number < count):
                left = [site.name for site in present[group] if site.name not in gone]
                gone.append(min(left, key=lambda name: _damage(subject, [*gone, name])) if self.looks else left[-1])
        return Pruned(_without(subject, gone))

    def _without_parts(self, subject: Subject, parts: Sequence[str], amount: int) -> Change:
        """Parts of one shape leave, where a detector has no layers among its sites."""
        if amount > len(parts):
            raise UserError(f"{self.name}: {amount} parts are to leave, and {len(parts)} can: {', '.join(parts)}")
        if subject.dense:
            raise UserError(f"{self.name}: rounds that take out parts of a {subject.family.name} are not supported")
        gone: list[str] = []
        for _ in range(amount):
            left = [part for part in parts if part not in gone]
            gone.append(min(left, key=lambda part: self._moved(subject, [*gone, part])) if self.looks else left[-1])
        return subject.family.without(subject.model, gone)

    def _moved(self, subject: Subject, gone: Sequence[str]) -> float:
        return _damage_of(subject, subject.family.without(subject.model, gone))

    def _leaving(self, subject: Subject, amount: int) -> dict[str, int]:
        """How many layers of each stack still have to leave."""
        stacks = _stacks(subject.whole.values())
        if not stacks:
            raise UserError(f"{self.name}: this {subject.family.name} has no layers that can leave")
        present = _stacks(subject.sites)
        leaving = {}
        for group, stack in stacks.items():
            most = len(stack) - 1 if group else len(stack)
            if amount > most:
                raise UserError(
                    f"{self.name}: {amount} layers are to leave of every stack, and of {stack[0].label} to "
                    f"{stack[-1].label} at most {most} can"
                )
            leaving[group] = max(0, amount - (len(stack) - len(present.get(group, ()))))
        return leaving


def _stacks(sites: Iterable[Site]) -> Stacks:
    """The layers of each stack, front to back."""
    stacks: Stacks = {}
    for site in sites:
        if isinstance(site, CountSite) and site.skips:
            stacks.setdefault(site.one_of, []).append(site)
    return stacks


def _without(subject: Subject, gone: Iterable[str]) -> Change:
    return kept_change(subject.sites, subject.model.state_dict(), dict.fromkeys(gone, ()))


def _damage(subject: Subject, gone: list[str]) -> float:
    """How far the answers to the calibration images move without some layers."""
    return _damage_of(subject, _without(subject, gone))


def _damage_of(subject: Subject, change: Change) -> float:
    """How far the answers to the calibration images move with a change."""
    images = subject.given.images
    pairs = zip(images.answers(change), subject.answers, strict=True)
    return sum(divergence(answer, dense, change.pairing).sum().item() for (answer, _), dense in pairs)
