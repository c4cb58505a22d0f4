"""What a command had finished when it was killed, so that the next one goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ntktune.artifacts import read_json, write_json
from ntktune.errors import UserError


class Finished:
    """Finished parts of a command's work, one JSON file each, in a folder of their own.

    The folder is none of the command's outputs, which Snakemake deletes when a job fails. A
    part counts only for the key that it was written with: what code, settings and data it
    came from. Files of other keys, and damaged ones, are passed over and replaced.

    Parameters
    ----------
    folder
        Where the files are; None keeps nothing.
    """

    def __init__(self, folder: str | None):
        self.folder = folder

    def get(self, name: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a part's content, None if it is not there for this key."""
        if self.folder is None:
            return None
        try:
            found = read_json(Path(self.folder, f"{name}.json"))
        except UserError:
            return None
        return found.get("content") if found.get("provenance") == _digest(key) else None

    def put(self, name: str, key: Mapping[str, Any], content: dict[str, Any]) -> None:
        """Keep a part's content; a killed process leaves the file whole or not there."""
        if self.folder is not None:
            write_json(Path(self.folder, f"{name}.json"), {"content": content}, _digest(key))


def _digest(key: Mapping[str, Any]) -> dict[str, str]:
    return {"key": hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}
