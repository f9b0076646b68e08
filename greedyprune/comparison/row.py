"""What was measured of one arm of a comparison."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from greedyprune.entries import Entries
from greedyprune.evaluation.profile import Latency
from greedyprune.evaluation.result import EvalResult
from greedyprune.ranges import AMOUNT, COUNT_OR_NONE

DENSE = "dense"  # the name of the row of the detector before pruning


@dataclass(frozen=True)
class Sizes:
    """Bytes of a detector's file.

    Attributes:
        dense: every number as it is.
        zipped: that file compressed (deflate, as in a zip).
        file: as it is saved: weights of many zeros as a bit mask and what is not zero.
    """

    dense: int
    zipped: int
    file: int


@dataclass(frozen=True)
class Row:
    """One arm, or the dense detector.

    Attributes:
        name: the arm's, or `DENSE`.
        method: the method's name; empty: none.
        amount: how much was pruned.
        pruned: the detector right after pruning.
        retrained: after retraining; None: it was not retrained.
        nonzero: parameters that are not zero in the end.
        sizes: of its file.
        latency: time of a forward pass in the deployed form, by what was measured, as `cpu, batch 8`.
    """

    name: str
    method: str
    amount: float
    pruned: EvalResult
    retrained: EvalResult | None
    nonzero: int
    sizes: Sizes
    latency: Mapping[str, Latency]

    @property
    def final(self) -> EvalResult:
        """The detector in the end."""
        return self.pruned if self.retrained is None else self.retrained

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "method": self.method,
            "amount": self.amount,
            "pruned": self.pruned.to_json(),
            "retrained": None if self.retrained is None else self.retrained.to_json(),
            "nonzero": self.nonzero,
            "sizes": vars(self.sizes),
            "latency": {label: vars(each) for label, each in self.latency.items()},
        }

    @classmethod
    def from_json(cls, value: Any, place: str) -> "Row":
        """What `to_json` wrote.

        Args:
            value: the object.
            place: begins messages: where it was read.

        Raises:
            UserError: something in it is missing or is not what it should be.
        """
        told = Entries(value, place)
        retrained = told.entry("retrained", object)
        sizes = Entries(told.entry("sizes", dict), f"{place}: sizes")
        times = {}
        for label, each in told.entry("latency", dict).items():
            entries = Entries(each, f"{place}: latency {label}")
            times[label] = Latency(entries.number("median", AMOUNT), entries.number("p95", AMOUNT))
        return cls(
            name=told.entry("name", str),
            method=told.entry("method", str),
            amount=told.number("amount", AMOUNT),
            pruned=EvalResult.from_json(told.entry("pruned", dict), f"{place}: pruned"),
            retrained=None if retrained is None else EvalResult.from_json(retrained, f"{place}: retrained"),
            nonzero=told.whole("nonzero", COUNT_OR_NONE),
            sizes=Sizes(*(sizes.whole(name, COUNT_OR_NONE) for name in ("dense", "zipped", "file"))),
            latency=times,
        )
