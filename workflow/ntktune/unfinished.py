"""What runs set out to make and did not.

Snakemake removes a job's files when the job starts, and asks for them again only where something
needs them that is missing, too. Where a run makes a finished study anew, with other settings, and a
job dies, the figures of the old settings are still there: the same command would find nothing to
do. So each run's files are listed when it starts, and those that are missing when it is gone are
made first.

Runs of a study that make different files may go on beside each other: each has a list of its own,
``state/unfinished/<machine>~<process>.json``.
"""

import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ntktune.artifacts import has_ended, read_json, write_json
from ntktune.errors import UserError

FOLDER = "state/unfinished"


def _own(results: str) -> Path:
    return Path(results, FOLDER, f"{platform.node()}~{os.getpid()}.json")


def _missing(names: Iterable[str]) -> set[str]:
    return {name for name in names if not os.path.exists(name)}


def _of_others(results: str) -> Iterator[tuple[Path, set[str]]]:
    """Yield the lists of runs that are not known to go on: file, and names in it."""
    for path in sorted(Path(results, FOLDER).glob("*~*.json")):
        named = re.fullmatch(r"(.+)~(\d+)", path.stem)
        here = named and named[1] == platform.node()
        if path == _own(results) or (here and not has_ended(int(named[2]))):
            continue
        try:
            yield path, set(read_json(path)["files"])
        except (UserError, KeyError, TypeError) as error:
            # what it listed is lost: where old figures are there, --forcerun must say it
            print(f"warning: a list of unfinished files is passed over: {error}", file=sys.stderr)
            with suppress(OSError):
                path.unlink(missing_ok=True)


def unfinished(results: str) -> set[str]:
    """Return the files that runs of a study began, and that are not there.

    Runs that go on on this machine are left to themselves.

    Parameters
    ----------
    results
        The study's folder.
    """
    return set().union(*(_missing(names) for _, names in _of_others(results)))


def begin(results: str, files: Iterable[str]) -> None:
    """List what this run makes, and what earlier ones have not made.

    Raises
    ------
    UserError
        The list cannot be written.
    """
    names, settled = set(files), []
    for path, listed in _of_others(results):
        names |= _missing(listed)
        settled.append(path)
    _write(_own(results), names)
    for path in settled:
        path.unlink(missing_ok=True)


def finish(results: str) -> None:
    """Forget what this run has made; what it was not asked for and is missing stays listed."""
    own = _own(results)
    if own.is_file():
        _write(own, _missing(read_json(own)["files"]))


def _write(path: Path, names: set[str]) -> None:
    if names:
        write_json(path, {"files": sorted(names)}, {})
        return
    path.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or another run's list is in it
        path.parent.rmdir()
