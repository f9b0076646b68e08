"""A study's own rows in Optuna's tables: its name, its direction and its user attributes."""

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from greedyprune.errors import UserError
from greedyprune.search.stored import Wrong, decode
from greedyprune.search.trials import Tables, inserted_key


def check_name(name: str) -> None:
    """Refuse what is no name of a study.

    Raises:
        UserError: it is empty, too long, or has characters that cannot be shown.
    """
    shown = ascii(name[:40] + "..." if len(name) > 40 else name)
    if not 0 < len(name) <= 200:
        raise UserError(f"--study {shown}: a study's name has 1 to 200 characters")
    if not name.isprintable():
        raise UserError(f"--study {shown}: a study's name has characters that can be shown alone; give another one")


def find_study(connection: sa.Connection, tables: Tables, name: str) -> int | None:
    """The key of a study by its name; None: there is none."""
    studies = tables["studies"]
    return connection.execute(sa.select(studies.c.study_id).where(studies.c.study_name == name)).scalar_one_or_none()


def create_study(connection: sa.Connection, tables: Tables, name: str) -> int:
    """Make a study that maximises one value; returns its key."""
    study_id = inserted_key(connection.execute(tables["studies"].insert().values(study_name=name)))
    direction = {"study_id": study_id, "objective": 0, "direction": "MAXIMIZE"}
    connection.execute(tables["study_directions"].insert().values(direction))
    return study_id


def read_attributes(connection: sa.Connection, tables: Tables, study_id: int) -> dict[str, Any]:
    """A study's user attributes.

    Raises:
        Wrong: one of them has no name, or is not JSON.
    """
    table = tables["study_user_attributes"]
    rows = connection.execute(sa.select(table.c.key, table.c.value_json).where(table.c.study_id == study_id)).all()
    if any(not isinstance(key, str) for key, _ in rows):
        raise Wrong("name of an attribute", "is no text")
    return {key: decode(key, value) for key, value in rows}


def write_attributes(connection: sa.Connection, tables: Tables, study_id: int, attributes: Mapping[str, Any]) -> None:
    """Set some of a study's user attributes."""
    table = tables["study_user_attributes"]
    for key, value in attributes.items():
        connection.execute(table.delete().where(table.c.study_id == study_id, table.c.key == key))
        connection.execute(table.insert().values(study_id=study_id, key=key, value_json=json.dumps(value)))
