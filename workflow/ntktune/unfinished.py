"""What a run set out to make and did not.

Snakemake removes a job's files when the job starts, and asks for them again only where something
needs them that is missing, too. Where a run makes a finished study anew, with other settings, and a
job dies, the figures of the old settings are still there: the same command would find nothing to
do. So each run's files are listed when it starts, and those that are missing at the next start are
made first.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from ntktune.artifacts import atomic_path

NAME = "state/unfinished.txt"


def unfinished(results: str) -> set[str]:
    """Return the files that runs of a study began and that are not there.

    Parameters
    ----------
    results
        The study's folder.
    """
    path = Path(results, NAME)
    listed = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {name for name in listed if not os.path.exists(name)}


def remember(results: str, files: Iterable[str]) -> None:
    """List the files that a study's run makes, or has not made; an empty list is removed.

    Raises
    ------
    UserError
        The list cannot be written.
    """
    path, names = Path(results, NAME), sorted(files)
    if not names:
        path.unlink(missing_ok=True)
        return
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
