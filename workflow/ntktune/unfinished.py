"""The files that a run planned and did not make.

Snakemake deletes a job's outputs when the job starts. If the run dies, the figures of older
settings still exist, so the next run would see nothing to do. So each run lists its planned
outputs when it starts; the next run makes those that are missing first.

Runs of a study may work beside each other if they make different files. Each has its own list,
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
from dataclasses import dataclass
from pathlib import Path

from ntktune.artifacts import ABANDONED, write_json
from ntktune.errors import UserError

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


@dataclass(frozen=True)
class Listed:
    """What another run of a study set out to make."""

    path: Path
    files: frozenset[str]
    machine: str
    process: int
    goes_on: bool | None  # None: on another machine, which cannot be asked


def runs(results: str) -> Iterator[Listed]:
    """Yield the lists of a study's other runs.

    Parameters
    ----------
    results
        The study's folder.
    """
    for path in sorted(Path(results, FOLDER).glob("*.json")):
        if path.name == OWN:
            continue
        named = re.fullmatch(r"(.+)~(\d+)~[0-9a-f]{8}", path.stem)
        machine, process = (named[1], int(named[2])) if named else ("", 0)
        files: frozenset[str] = frozenset()
        goes_on = False  # an archive's list has no run's name
        try:
            listed = path.stat().st_mtime
            if machine == platform.node():
                goes_on = _goes_on(process, listed)
            elif machine and time.time() - listed <= ABANDONED:
                goes_on = None
            files = frozenset(json.loads(path.read_text(encoding="utf-8"))["files"])
        except FileNotFoundError:  # its run has just ended
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            # what it listed is lost: where old figures are there, --forcerun must say it
            print(
                f"warning: {path}, a list of unfinished files, is damaged: {error}", file=sys.stderr
            )
        yield Listed(path, files, machine, process, goes_on)


def unfinished(results: str) -> set[str]:
    """Return the files that runs of a study planned and that do not exist.

    Runs that are still running on this machine are left out. The list of an ended run whose files
    all exist is removed, so that a file deleted later does not count as unfinished.

    Parameters
    ----------
    results
        The study's folder.
    """
    found = set()
    for run in runs(results):
        missing = set() if run.goes_on else _missing(run.files)
        if run.goes_on is False and not missing:
            with suppress(OSError):  # a folder that is only looked at
                _settle(run.path)
        found |= missing
    return found


def begin(results: str, files: Iterable[str]) -> None:
    """List what this run makes, and what earlier ones have not made.

    Raises
    ------
    UserError
        The list cannot be written, or another run on this machine is making some of the files.
        Snakemake's own locks do not suffice: the first of several runs to end removes them all.
    """
    names, others = set(files), list(runs(results))
    for run in others:
        if run.goes_on and (shared := sorted(names & run.files)):
            raise UserError(
                f"another Snakemake (process {run.process}) makes {shared[0]} at the moment, "
                f"{len(shared)} of these files in all; let it finish"
            )
    for run in others:
        if not run.goes_on:
            names |= _missing(run.files)
    _write(Path(results, FOLDER, OWN), names)
    for run in others:
        if run.goes_on is False:
            _settle(run.path)


def finish(results: str, *, whole: bool) -> None:
    """Take off the list what this run has made; other missing files stay listed.

    After a run of the ``whole`` study every list is removed: what is still missing is no longer
    part of the study.
    """
    own = Path(results, FOLDER, OWN)
    if not own.is_file():
        return
    if whole:
        begun = own.stat().st_mtime
        for run in runs(results):
            with suppress(FileNotFoundError):
                if not run.goes_on and run.path.stat().st_mtime <= begun:
                    _settle(run.path)
        _settle(own)
        return
    _write(own, _missing(json.loads(own.read_text(encoding="utf-8"))["files"]))


def _write(path: Path, names: set[str]) -> None:
    if names:
        write_json(path, {"files": sorted(names)}, {})
    else:
        _settle(path)


def _settle(path: Path) -> None:
    """Remove a list, and the folder with the last one."""
    path.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or another run's list is in it
        path.parent.rmdir()
