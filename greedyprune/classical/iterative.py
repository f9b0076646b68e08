"""Rounds of pruning and training, in which the share grows from 0 to what is asked for."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from greedyprune.classical.base import Method, Pruned, Subject
from greedyprune.errors import UserError
from greedyprune.families.base import Family
from greedyprune.files import atomic_write
from greedyprune.pruning.bench import NOTHING
from greedyprune.ranges import COUNT

SCHEDULES = ("polynomial", "linear")
Train = Callable[[nn.Module, Pruned, int], nn.Module]


@dataclass(frozen=True)
class Rounds:
    """What is pruned in which round.

    Attributes:
        method: how.
        amount: after the last round.
        rounds: how many.
        schedule: `polynomial`: much in the first rounds, little in the last; `linear`: the same in each.
    """

    method: Method
    amount: float
    rounds: int = 5
    schedule: str = "polynomial"

    def __post_init__(self) -> None:
        self.method.amounts.check(self.amount, f"{self.method.name}: the amount")
        COUNT.check(self.rounds, "rounds")
        if self.schedule not in SCHEDULES:
            raise UserError(f"schedule {self.schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}")

    def amount_after(self, number: int) -> float:
        """The amount after round `number`, from 1: `a t` or `a (1 - (1 - t)^3)` (Zhu and Gupta 2017, equation 1).

        Of a method that takes whole numbers, the nearest one.
        """
        share = number / self.rounds
        amount = self.amount * (share if self.schedule == "linear" else 1 - (1 - share) ** 3)
        return round(amount) if self.method.amounts.kind is int else amount


class Store(Protocol):
    """Where models after rounds are kept."""

    def load(self, number: int) -> nn.Module | None:
        """The model after a round, from 1; None: that round has not ended."""
        ...

    def save(self, number: int, model: nn.Module) -> None:
        """Keep the model after a round."""
        ...


class RoundsFolder:
    """Models after rounds as checkpoints in a folder, `round_1.safetensors` and so on.

    Args:
        family: of the models.
        path: the folder; made if it does not exist.
        settings: what decides the result, the rounds and whatever else (weights, data, training), as JSON values.

    Raises:
        UserError: the folder holds rounds of other settings.
    """

    def __init__(self, family: Family, path: Path, settings: Mapping[str, Any]) -> None:
        self.family, self.path = family, path
        about, told = path / "rounds.json", json.dumps(settings, sort_keys=True, indent=1)
        if about.exists():
            if about.read_text() != told:
                raise UserError(f"{path} holds rounds of other settings (see {about.name} there); give another folder")
            return
        atomic_write(about, told)

    def load(self, number: int) -> nn.Module | None:
        """See `Store`."""
        file = self._file(number)
        return self.family.load(file) if file.exists() else None

    def save(self, number: int, model: nn.Module) -> None:
        """See `Store`."""
        self.family.save(model, self._file(number))

    def _file(self, number: int) -> Path:
        return self.path / f"round_{number}.safetensors"


def run(subject: Subject, rounds: Rounds, train: Train, store: Store | None = None) -> nn.Module:
    """Prune and train in turns. What has left stays away: cuts are cuts, and weights that are zero are the smallest.

    Args:
        subject: the detector; its batches serve every round.
        rounds: what is pruned when.
        train: from a pruned model, how it was pruned, and the round's number, to the trained model, which may be the
            same object. Where `kept` says that weights are zero, it has to see to it that they stay so; see `held`.
        store: keeps the model after every round; with it a run that was interrupted goes on after the last one.

    Returns:
        The model after the last round.
    """
    done, model = 0, None
    if store is not None:
        for number in range(rounds.rounds, 0, -1):
            model = store.load(number)
            if model is not None:
                done = number
                break
    device = next(subject.model.parameters()).device
    for number in range(done + 1, rounds.rounds + 1):
        model = _round(subject if model is None else subject.after(model.to(device)), rounds, train, number)
        if store is not None:
            store.save(number, model)
    assert model is not None  # there is at least one round
    return model


def _round(subject: Subject, rounds: Rounds, train: Train, number: int) -> nn.Module:
    amount = rounds.amount_after(number)
    pruned = rounds.method.prune(subject, amount) if amount else Pruned(NOTHING)
    return train(subject.family.slim(subject.model, pruned.change), pruned, number).eval()
