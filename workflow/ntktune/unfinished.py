"""What runs set out to make and did not.

Snakemake removes a job's files when the job starts, and asks for them again only where something
needs them that is missing, too. Where a run makes a finished study anew, with other settings, and a
job dies, the figures of the old settings are still there: the same command would find nothing to
do. So each run's files are listed when it starts, and those that are missing when it is gone are
made first.

Runs of a study that make different files may go on beside each other: each has a list of its own,
``state/unfinished/<machine>~<process>~<number>.json``.
"""

import json
import os
import platform
import re
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ntktune.artifacts import ABANDONED, write_json

FOLDER = "state/unfinished"
OWN = f"{platform.node()}~{os.getpid()}~{uuid.uuid4().hex[:8]}.json"


def _missing(names: Iterable[str]) -> set[str]:
    return {name for name in names if not os.path.exists(name)}


def _goes_on(process: int, listed: float) -> bool:
    """Return whether a process that listed its files at a time is there, and not another one."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process).create_time() <= listed
    return False


def _of_others(results: str) -> Iterator[tuple[Path, set[str], bool]]:
    """Yield the lists of runs not known to go on: file, names, and whether the run has ended."""
    for path in sorted(Path(results, FOLDER).glob("*.json")):
        named = re.fullmatch(r"(.+)~(\d+)~[0-9a-f]{8}", path.stem)
        if path.name == OWN:
            continue
        try:
            listed = path.stat().st_mtime
            here = bool(named) and named[1] == platform.node()
            if here and _goes_on(int(named[2]), listed):
                continue
            # a run elsewhere cannot be asked
            ended = here or time.time() - listed > ABANDONED
            yield path, set(json.loads(path.read_text(encoding="utf-8"))["files"]), ended
        except (OSError, ValueError, KeyError, TypeError) as error:
            # what it listed is lost: where old figures are there, --forcerun must say it
            print(
                f"warning: {path}, a list of unfinished files, is damaged: {error}", file=sys.stderr
            )
            yield path, set(), True


def unfinished(results: str) -> set[str]:
    """Return the files that runs of a study began, and that are not there.

    Runs that go on on this machine are left to themselves.

    Parameters
    ----------
    results
        The study's folder.
    """
    return set().union(*(_missing(names) for _, names, _ in _of_others(results)))


def begin(results: str, files: Iterable[str]) -> None:
    """List what this run makes, and what earlier ones have not made.

    Raises
    ------
    UserError
        The list cannot be written.
    """
    names, settled = set(files), []
    for path, listed, ended in _of_others(results):
        names |= _missing(listed)
        settled += [path] * ended
    _write(Path(results, FOLDER, OWN), names)
    for path in settled:
        path.unlink(missing_ok=True)


def finish(results: str, *, whole: bool) -> None:
    """Forget what this run has made; what it was not asked for and is missing stays listed.

    After a ``whole`` study nothing does: what is missing still is no part of it any more.
    """
    own = Path(results, FOLDER, OWN)
    if own.is_file():
        listed = json.loads(own.read_text(encoding="utf-8"))["files"]
        _write(own, set() if whole else _missing(listed))


def _write(path: Path, names: set[str]) -> None:
    if names:
        write_json(path, {"files": sorted(names)}, {})
        return
    path.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or another run's list is in it
        path.parent.rmdir()
