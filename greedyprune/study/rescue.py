"""What is known of a study whose database was lost, saved in another one."""

import shlex
from itertools import count
from pathlib import Path

from greedyprune.errors import UserError
from greedyprune.study.refusals import DatabaseLost
from greedyprune.study.study import Study


class Rescued(DatabaseLost):
    """The database of a running search is gone, and its trials are in another one."""


def rescue(study: Study, folder: Path) -> None:
    """Save a study in a new database, where its own one is lost; `study.lost` then says where.

    Call it before anything that takes long: what is in memory alone goes with the process.

    Args:
        study: any; nothing is done where its database is there, or it is saved already.
        folder: for the new database.

    Raises:
        DatabaseLost: it has no trial to save.
    """
    if study.lost is None or isinstance(study.lost, Rescued):
        return
    trials = study.trials()
    if not trials:
        raise DatabaseLost(f"{study.lost}; no trial was finished yet: repeat the command")
    path = next(path for path in (folder / f"rescued{number or ''}.db" for number in count()) if not path.exists())
    try:
        study.copy_to(str(path))
        told = f"its {len(trials)} trials are saved: go on with --db {shlex.quote(str(path))}"
    except (UserError, OSError) as error:
        told = f"its trials could not be saved again: {error}"
    study.lost = Rescued(f"{study.lost}; {told}")
