"""What a run planned and did not make, and what a killed command had finished (docs/design.md)."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ntktune.errors import UserError
from ntktune.store.records import json_checksum, read_json, write_json

FILE = "state/unfinished.json"


def unfinished(results: str) -> set[str]:
    """Return the files that runs of a study, in the folder ``results``, planned and did not make.

    Raises UserError if the list is damaged. It is set aside; what it said is lost.
    """
    if not Path(results, FILE).is_file():
        return set()
    return {name for name in read_json(Path(results, FILE))["files"] if not os.path.exists(name)}


def begin(results: str, files: Iterable[str]) -> None:
    """List what a run makes, and what earlier ones have not made."""
    _write(results, unfinished(results).union(files))


def finish(results: str, *, whole: bool = False) -> None:
    """Take off the list what has been made; after a run of the ``whole`` study, everything."""
    # what the whole study leaves missing is no longer part of it
    _write(results, set() if whole else unfinished(results))


def _write(results: str, names: set[str]) -> None:
    if names:
        write_json(Path(results, FILE), {"files": sorted(names)}, {})
    else:
        Path(results, FILE).unlink(missing_ok=True)


def finished_part(folder: str | None, name: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what :func:`keep_part` kept, None if it is not there for this key, or damaged."""
    try:
        found = read_json(Path(folder, f"{name}.json")) if folder else {}
    except UserError:
        return None
    return found.get("content") if found.get("provenance") == {"key": json_checksum(key)} else None


def keep_part(
    folder: str | None, name: str, key: Mapping[str, Any], content: dict[str, Any]
) -> None:
    """Keep a finished part of a command's work, so that the next one goes on from there.

    ``folder`` holds none of the command's outputs, which Snakemake deletes when a job fails; None
    keeps nothing. ``key`` has the code, settings and data that ``content`` came from.
    """
    if folder:
        write_json(Path(folder, f"{name}.json"), {"content": content}, {"key": json_checksum(key)})
