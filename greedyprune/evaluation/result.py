"""What an evaluation measured, as typed numbers and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from greedyprune.entries import Entries
from greedyprune.errors import UserError
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.metrics import COCO, METRICS
from greedyprune.evaluation.profile import Latency
from greedyprune.ranges import AMOUNT, COUNT, COUNT_OR_NONE, PIXELS, SEED, Range

SCORE = Range(float, -1, 1)  # AP and AR; -1 where there was nothing to measure on


@dataclass(frozen=True)
class Costs:
    """What a detector, or a part of it, costs.

    Attributes:
        params: parameters.
        flops: multiply-adds for one image, in the deployed form.
        latency: time of a forward pass over one image; None: not measured.
    """

    params: int
    flops: int
    latency: Latency | None = None


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation measured, and on what.

    Attributes:
        accuracy: the metric's numbers by their names, of COCO's the twelve; -1 where nothing counts.
        per_class: category name -> AP.
        cost: of the whole detector.
        parts: label of a measured part -> its cost.
        device: where the model ran.
        threads: CPU threads of PyTorch.
        dtype: what the forward pass computed in.
        images: number of images evaluated.
        image_seed: seed that chose them; None: they are all of the data set's.
        image_size: height and width, in pixels, for which multiply-adds and latency hold.
        metric: what `accuracy` is counted by; see `METRICS`.
        class_scores: category name -> the metric's other numbers of that class, where it has several.
        detections: what the model answered; None where the result was read from JSON.
    """

    accuracy: Mapping[str, float]
    per_class: Mapping[str, float]
    cost: Costs
    parts: Mapping[str, Costs]
    device: str
    threads: int
    dtype: str
    images: int
    image_seed: int | None
    image_size: tuple[int, int]
    metric: str = COCO
    class_scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    detections: Detections | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The object that `tools/eval.py --json` prints: finite numbers, text and null only.

        What is of a measured part has its label before the name, as `transformer_params`.
        """
        costs = [("", self.cost), *((_prefix(label), cost) for label, cost in self.parts.items())]
        latency = {
            f"{prefix}{each.name}": getattr(cost.latency, each.name)
            for prefix, cost in costs
            if cost.latency is not None
            for each in fields(Latency)
        }
        return {
            "metric": self.metric,
            **self.accuracy,
            "per_class": dict(self.per_class),
            **(
                {"class_scores": {name: dict(of) for name, of in self.class_scores.items()}}
                if self.class_scores
                else {}
            ),
            **{f"{prefix}{kind}": getattr(cost, kind) for prefix, cost in costs for kind in ("params", "flops")},
            "parts": list(self.parts),
            "latency_ms": latency or None,
            "device": self.device,
            "threads": self.threads,
            "dtype": self.dtype,
            "images": self.images,
            "image_seed": self.image_seed,
            "image_size": list(self.image_size),
        }

    @classmethod
    def from_json(cls, value: Any, place: str) -> "EvalResult":
        """What `to_json` wrote.

        Args:
            value: the object.
            place: begins messages: where it was read.

        Raises:
            UserError: something in it is missing or is not what it should be.
        """
        told = Entries(value, place)
        parts = told.texts("parts")
        size = told.entry("image_size", list)
        metric = told.entry("metric", str) if "metric" in told.value else COCO  # results of 0.1.0 do not say so
        if metric not in METRICS:
            raise UserError(f"{place}: metric is {metric!r}, it must be one of {', '.join(METRICS)}")
        classes = Entries(told.value.get("class_scores", {}), f"{place}: class_scores")
        if len(size) != 2:
            raise UserError(f"{place}: image_size is {size!r}, it must be a height and a width")
        for each in size:
            PIXELS.check(each, f"{place}: image_size")
        return cls(
            accuracy={name: told.number(name, SCORE) for name in METRICS[metric].names},
            per_class=Entries(told.entry("per_class", dict), f"{place}: per_class").numbers(SCORE),
            cost=_costs(told, "", place),
            parts={label: _costs(told, _prefix(label), place) for label in parts},
            device=told.entry("device", str),
            threads=told.whole("threads", COUNT),
            dtype=told.entry("dtype", str),
            images=told.whole("images", COUNT),
            image_seed=told.whole("image_seed", SEED) if told.entry("image_seed", object) is not None else None,
            image_size=(size[0], size[1]),
            metric=metric,
            class_scores={
                name: Entries(of, f"{classes.place}: {name}").numbers(SCORE) for name, of in classes.value.items()
            },
        )


def _prefix(label: str) -> str:
    return f"{label.lower()}_"


def _costs(told: Entries, prefix: str, place: str) -> Costs:
    times = told.entry("latency_ms", object)
    latency = None
    if times is not None:
        entries = Entries(times, f"{place}: latency_ms")
        latency = Latency(*(entries.number(f"{prefix}{each.name}", AMOUNT) for each in fields(Latency)))
    return Costs(told.whole(f"{prefix}params", COUNT_OR_NONE), told.whole(f"{prefix}flops", COUNT_OR_NONE), latency)
