"""Records as Optuna trials: one transaction writes one, and they are read back exactly.

The rows are those of `study.add_trial(optuna.trial.create_trial(...))`. That, too, is one transaction, but with about a
hundred statements for 30 sites; these are seven.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from datetime import datetime, timedelta, timezone
from math import gcd
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import IntDistribution, distribution_to_json

from greedyprune.errors import UserError
from greedyprune.search.record import Growth, Proposal, Record

SUBSET, FULL = 0, 1  # steps of a trial's intermediate values
Tables = Mapping[str, sa.Table]

# Attribute of a trial -> field of a Record. Widths and APs are the trial's parameters and values; the fields of what
# it came from are attributes under their own names.
_ATTRIBUTES = {
    "target": "target",
    "multiply_adds": "flops",
    "parameters": "params",
    "image_forwards": "image_forwards",
    "seconds": "seconds",
}


def width_distributions(sites: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """The range of every site's width, as Optuna's JSON.

    Args:
        sites: site name -> its dense width and the step that its width grows by.
    """
    ranges = {}
    for name, (width, step) in sites.items():
        step = gcd(width, step)  # so that the dense width is in the range when the last step is a smaller one
        ranges[name] = distribution_to_json(IntDistribution(step, width, step=step))
    return ranges


def insert_trial(
    connection: sa.Connection, tables: Tables, study_id: int, record: Record, distributions: Mapping[str, str]
) -> None:
    """Write a record as the study's next trial.

    Args:
        connection: in a transaction that writes.
        tables: `Database.tables`.
        study_id: the study's key.
        record: what to write.
        distributions: `width_distributions` of the sites.
    """
    if record.widths.keys() != distributions.keys():
        raise ValueError(f"a record has the sites {list(record.widths)}, its study {list(distributions)}")
    studies, trials = tables["studies"], tables["trials"]
    # As Optuna does: who adds a trial holds the study's row, so that two never take the same number.
    connection.execute(sa.select(studies.c.study_id).where(studies.c.study_id == study_id).with_for_update())
    same_study = sa.select(sa.func.count()).where(trials.c.study_id == study_id)
    now = _now()
    trial = {
        "study_id": study_id,
        "number": connection.execute(same_study).scalar_one(),
        "state": "PRUNED" if record.full_map is None else "COMPLETE",
        "datetime_start": now - timedelta(seconds=record.seconds),
        "datetime_complete": now,
    }
    trial_key = {"trial_id": inserted_key(connection.execute(trials.insert().values(trial)))}

    maps = {SUBSET: float(record.subset_map)}
    if record.full_map is not None:
        maps[FULL] = float(record.full_map)
    value = {"objective": 0, "value": maps[max(maps)], "value_type": "FINITE"}
    steps = [{"step": s, "intermediate_value": m, "intermediate_value_type": "FINITE"} for s, m in maps.items()]
    widths = [
        {"param_name": name, "param_value": width, "distribution_json": distributions[name]}
        for name, width in record.widths.items()
    ]
    told = asdict(record.origin) | {name: getattr(record, field) for name, field in _ATTRIBUTES.items()}
    attributes = [{"key": key, "value_json": json.dumps(value, separators=(",", ":"))} for key, value in told.items()]
    for table, rows in (
        ("trial_values", [value]),
        ("trial_intermediate_values", steps),
        ("trial_params", widths),
        ("trial_user_attributes", attributes),
    ):
        connection.execute(tables[table].insert(), [trial_key | row for row in rows])


def read_trials(
    connection: sa.Connection, tables: Tables, study_id: int, after: int = -1
) -> Iterator[tuple[int, Record]]:
    """Trials of a study as records, in order.

    Args:
        connection: in a transaction.
        tables: `Database.tables`.
        study_id: the study's key.
        after: only trials with a larger key.

    Yields:
        Pairs of the trial's key in the database and its record.

    Raises:
        UserError: a trial was written by another program.
    """
    trials = tables["trials"]
    wanted = (trials.c.study_id == study_id) & (trials.c.trial_id > after)
    numbers = connection.execute(
        sa.select(trials.c.trial_id, trials.c.number)
        .where(wanted, trials.c.state.in_(("COMPLETE", "PRUNED")))
        .order_by(trials.c.trial_id)
    ).all()

    def parts(name: str, order: str, key: str, value: str) -> dict[int, dict[Any, Any]]:
        table = tables[name]
        rows = connection.execute(
            sa.select(table.c.trial_id, table.c[key], table.c[value])
            .join(trials, trials.c.trial_id == table.c.trial_id)
            .where(wanted)
            .order_by(table.c[order])
        )
        found: dict[int, dict[Any, Any]] = defaultdict(dict)
        for trial_id, its_key, its_value in rows:
            found[trial_id][its_key] = its_value
        return found

    widths = parts("trial_params", "param_id", "param_name", "param_value")
    maps = parts("trial_intermediate_values", "step", "step", "intermediate_value")
    attributes = parts("trial_user_attributes", "trial_user_attribute_id", "key", "value_json")
    for trial_id, number in numbers:
        try:
            told = {name: json.loads(value) for name, value in attributes[trial_id].items()}
            record = Record(
                origin=_origin(told),
                widths={name: int(width) for name, width in widths[trial_id].items()},
                subset_map=maps[trial_id][SUBSET],
                full_map=maps[trial_id].get(FULL),
                **{field: told[name] for name, field in _ATTRIBUTES.items()},
            )
        except KeyError:
            raise UserError(
                f"trial {number} of the study was written by another program; start a new study with --study NAME"
            ) from None
        yield trial_id, record


def _origin(told: Mapping[str, Any]) -> Growth | Proposal:
    kind = Growth if "site" in told else Proposal
    values = {field.name: told[field.name] for field in fields(kind)}
    if "kept" in values:
        values["kept"] = tuple(values["kept"])
    return kind(**values)


def inserted_key(result: "sa.CursorResult[Any]") -> int:
    """The key of the row that an INSERT made."""
    key = result.inserted_primary_key
    if key is None:
        raise RuntimeError("the database did not tell the key of the new row")
    return int(key[0])


def _now() -> datetime:
    """The time as Optuna stores it: from version 5 on UTC, before it local time; never with a time zone."""
    zone = timezone.utc if int(optuna.__version__.split(".")[0]) >= 5 else None
    return datetime.now(zone).replace(tzinfo=None)
