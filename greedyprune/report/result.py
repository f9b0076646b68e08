"""What a search ends with, and its files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from greedyprune.entries import Entries
from greedyprune.errors import UserError
from greedyprune.evaluation.result import EvalResult
from greedyprune.files import atomic_write
from greedyprune.ranges import AMOUNT, COUNT_OR_NONE
from greedyprune.report.front import axes
from greedyprune.study.trial import Baseline, Trial

RESULT, CFGS = "result.json", "cfgs.json"


class SitesPrice(Protocol):
    """What sites cost; `Saving` of a search is one."""

    kind: str
    sites: float

    def of_sites(self, widths: Mapping[str, int]) -> float:
        """All sites at their widths."""
        ...


@dataclass(frozen=True)
class SitesCost:
    """What the searched sites cost, in the unit of what was saved.

    Attributes:
        kind: `flops`, `params` or `latency`.
        dense: at their full widths.
        slim: at the widths found.
    """

    kind: str
    dense: float
    slim: float

    @classmethod
    def of(cls, price: SitesPrice, widths: Mapping[str, int]) -> "SitesCost":
        """At some widths."""
        return cls(price.kind, price.sites, price.of_sites(widths))


@dataclass(frozen=True)
class Spent:
    """What a search took.

    Attributes:
        seconds: time.
        image_forwards: images that went through the detector, or a part of it.
    """

    seconds: float
    image_forwards: int

    @classmethod
    def of(cls, baseline: Baseline, trials: Sequence[Trial]) -> "Spent":
        """Of the dense model and all trials together."""
        return cls(
            baseline.seconds + sum(trial.seconds for trial in trials),
            baseline.image_forwards + sum(trial.image_forwards for trial in trials),
        )


@dataclass(frozen=True)
class Summary:
    """What a search ends with, without the model.

    Attributes:
        cfgs: the widths found, as the family writes them.
        widths: site name -> the width found, of every searched site.
        trial: number of the trial that has them; None: no trial holds, and the dense model is what is left.
        schedule: of the search.
        scorer: of the search.
        spent: what the search took.
        sites: what the searched sites cost.
        dense: the dense model, evaluated from images to AP.
        slim: the slim one, in the same way.
    """

    cfgs: list[Any] | dict[str, Any]
    widths: dict[str, int]
    trial: int | None
    schedule: str
    scorer: str
    spent: Spent
    sites: SitesCost
    dense: EvalResult
    slim: EvalResult

    def to_json(self) -> dict[str, Any]:
        """The content of `result.json`, which a study stores, too."""
        return {
            "cfgs": self.cfgs,
            "widths": self.widths,
            "trial": self.trial,
            "schedule": self.schedule,
            "scorer": self.scorer,
            **asdict(self.spent),
            "sites": asdict(self.sites),
            "dense": self.dense.to_json(),
            "slim": self.slim.to_json(),
        }

    @classmethod
    def from_json(cls, value: Any, place: str) -> "Summary":
        """What `to_json` wrote.

        Args:
            value: the object.
            place: begins messages: where it was read.

        Raises:
            UserError: something in it is missing or is not what it should be.
        """
        told = Entries(value, place)
        sites = Entries(told.entry("sites", dict), f"{place}: sites")
        widths = Entries(told.entry("widths", dict), f"{place}: widths")
        if (kind := sites.entry("kind", str)) not in axes():
            raise UserError(f"{place}: sites: 'kind' is {kind!r}, it must be one of {', '.join(axes())}")
        if not isinstance(cfgs := told.entry("cfgs", object), (list, dict)):
            raise UserError(f"{place}: 'cfgs' is {type(cfgs).__name__}, not list or dict")
        dense, slim = (EvalResult.from_json(told.entry(name, dict), f"{place}: {name}") for name in ("dense", "slim"))
        if dense.parts.keys() != slim.parts.keys():
            raise UserError(f"{place}: the parts of the dense and the slim model differ")
        return cls(
            cfgs=cfgs,
            widths={name: widths.whole(name, COUNT_OR_NONE) for name in widths.value},
            trial=None if told.entry("trial", object) is None else told.whole("trial", COUNT_OR_NONE),
            schedule=told.entry("schedule", str),
            scorer=told.entry("scorer", str),
            spent=Spent(told.number("seconds", AMOUNT), told.whole("image_forwards", COUNT_OR_NONE)),
            sites=SitesCost(kind, sites.number("dense", AMOUNT), sites.number("slim", AMOUNT)),
            dense=dense,
            slim=slim,
        )

    def write(self, folder: Path) -> None:
        """`cfgs.json`, the bare width list, and `result.json`, in a folder."""
        atomic_write(folder / CFGS, json.dumps(self.cfgs) + "\n")
        atomic_write(folder / RESULT, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")


def read_summary(path: Path) -> Summary:
    """What `Summary.write` wrote into `result.json`.

    Raises:
        UserError: there is no such file, or it is no result of a search.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    return Summary.from_json(value, str(path))
