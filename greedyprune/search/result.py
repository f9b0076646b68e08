"""The end of a search: what was found, as files and as a table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from greedyprune.cfgs import Cfgs, check_cfgs, parse_cfgs
from greedyprune.errors import UserError
from greedyprune.files import atomic_write
from greedyprune.models.detector import Detector
from greedyprune.ranges import AMOUNT, COUNT, COUNT_OR_NONE
from greedyprune.report import count
from greedyprune.search.cost import CostModel
from greedyprune.search.record import AP, Baseline, Record
from greedyprune.search.stored import REMEDY, check_values

APS = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")


def summarize(
    cfgs: Cfgs,
    schedule: str,
    scorer: str,
    baseline: Baseline,
    records: Sequence[Record],
    dense: Mapping[str, Any],
    slim: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `result.json`.

    Args:
        cfgs: the widths found.
        schedule: name of the schedule.
        scorer: name of the score.
        baseline: what measuring the dense model took.
        records: every proposal of the search.
        dense: `EvalResult.to_json()` of the dense model.
        slim: the same of the slim one.
    """
    return {
        "cfgs": cfgs.to_list(),
        "schedule": schedule,
        "scorer": scorer,
        "seconds": baseline.seconds + sum(record.seconds for record in records),
        "image_forwards": baseline.image_forwards + sum(record.image_forwards for record in records),
        "dense": dict(dense),
        "slim": dict(slim),
    }


def check_result(result: Mapping[str, Any], model: Detector, place: str) -> None:
    """Check that a stored result says what `summarize` puts into one.

    Args:
        result: of a study.
        model: the dense model.
        place: the study, for messages.

    Raises:
        UserError: names what is missing or wrong.
    """
    whole = {"cfgs": list, "schedule": str, "scorer": str, "seconds": AMOUNT, "image_forwards": COUNT_OR_NONE}
    check_values(result, whole | {"dense": dict, "slim": dict}, f"{place}: its result")
    counts = dict.fromkeys(("params", "transformer_params", "flops", "transformer_flops"), COUNT)
    for name in ("dense", "slim"):
        check_values(result[name], counts | dict.fromkeys(APS, AP), f"{place}: its result, {name}")
    try:
        check_cfgs(parse_cfgs(result["cfgs"]), model.cfgs, model.options.heads, model.options.unit)
    except UserError as error:
        raise UserError(f"{place}: its result: {error}; {REMEDY}") from None


def write_result(result: Mapping[str, Any], folder: Path) -> None:
    """`cfgs.json`, the bare width list, and `result.json`, in a folder."""
    atomic_write(folder / "cfgs.json", json.dumps(result["cfgs"]) + "\n")
    atomic_write(folder / "result.json", json.dumps(result, indent=1, allow_nan=False) + "\n")


def site_table(full: Mapping[str, int], kept: Mapping[str, int]) -> Table:
    """Per site its dense width, what it keeps, and the share."""
    table = Table(title="sites", title_justify="left")
    table.add_column("site")
    for column in ("dense", "kept", "share"):
        table.add_column(column, justify="right")
    for name, width in full.items():
        table.add_row(name, str(width), str(kept[name]), f"{kept[name] / width:.0%}")
    return table


def comparison_table(result: Mapping[str, Any], cost: CostModel) -> Table:
    """Parameters, multiply-adds and AP before and after."""
    dense, slim = result["dense"], result["slim"]
    table = Table(title="before and after", title_justify="left")
    table.add_column("")
    for column in ("dense", "slim", "change"):
        table.add_column(column, justify="right")
    for label, key in (
        ("parameters", "params"),
        ("  of the Transformer", "transformer_params"),
        ("multiply-adds", "flops"),
        ("  of the Transformer", "transformer_flops"),
    ):
        table.add_row(label, count(dense[key]), count(slim[key]), f"{slim[key] / dense[key] - 1:+.1%}")
    found = parse_cfgs(result["cfgs"]).widths("all")  # a dense backbone is not named
    widths = {name: found.get(name, width) for name, width in cost.full.items()}
    before, after = cost.site_flops(cost.full), cost.site_flops(widths)
    table.add_row("  of the sites", count(before), count(after), f"{after / before - 1:+.1%}")
    for label in APS:
        table.add_row(label, f"{dense[label]:.4f}", f"{slim[label]:.4f}", f"{slim[label] - dense[label]:+.4f}")
    return table
