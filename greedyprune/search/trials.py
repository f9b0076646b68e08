"""Records as Optuna trials: one transaction writes one, and they are read back exactly.

The rows are those of `study.add_trial(optuna.trial.create_trial(...))`. That, too, is one transaction, but with about a
hundred statements for 30 sites; these are seven.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from math import gcd
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import IntDistribution, distribution_to_json

from greedyprune.search.record import Record
from greedyprune.search.stored import ATTRIBUTES, FULL, SUBSET, StoredTrial

Tables = Mapping[str, sa.Table]


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
    now = _now()
    trial = {
        "study_id": study_id,
        "number": count_trials(connection, tables, study_id),
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
    told = asdict(record.origin) | {name: getattr(record, field) for name, field in ATTRIBUTES.items()}
    attributes = [{"key": key, "value_json": json.dumps(value, separators=(",", ":"))} for key, value in told.items()]
    for table, rows in (
        ("trial_values", [value]),
        ("trial_intermediate_values", steps),
        ("trial_params", widths),
        ("trial_user_attributes", attributes),
    ):
        connection.execute(tables[table].insert(), [trial_key | row for row in rows])


def count_trials(connection: sa.Connection, tables: Tables, study_id: int) -> int:
    """How many trials a study has, whatever their state."""
    same_study = sa.select(sa.func.count()).where(tables["trials"].c.study_id == study_id)
    return int(connection.execute(same_study).scalar_one())


def read_trials(connection: sa.Connection, tables: Tables, study_id: int, after: int = -1) -> list[StoredTrial]:
    """Trials of a study as they are stored, in order, whatever their state.

    Args:
        connection: in a transaction.
        tables: `Database.tables`.
        study_id: the study's key.
        after: only trials with a larger number.
    """
    trials = tables["trials"]
    wanted = trials.c.study_id == study_id
    if after >= 0:
        wanted &= trials.c.number > after

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
    values = parts("trial_values", "trial_value_id", "objective", "value")
    maps = parts("trial_intermediate_values", "step", "step", "intermediate_value")
    attributes = parts("trial_user_attributes", "trial_user_attribute_id", "key", "value_json")
    rows = sa.select(trials.c.trial_id, trials.c.number, trials.c.state).where(wanted).order_by(trials.c.number)
    return [
        StoredTrial(number, state, values[key].get(0), widths[key], maps[key], attributes[key])
        for key, number, state in connection.execute(rows).all()
    ]


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
