"""Manifests and tables, each with a checksum and the provenance that says what a command did."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.errors import not_there
from ntktune.store.files import (
    MODEL_MANIFEST,
    MODEL_WEIGHTS,
    atomic_path,
    damaged,
    file_sha256,
    present,
    unreadable,
)

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

METADATA_KEY = "ntktune"
CHECKSUM = "sha256_of_the_rest"  # of a JSON file, and of provenance


def as_json(content: dict) -> dict:
    """Return a dict as it is read back from JSON: the form that checksums are of."""

    def ready(value: Any) -> Any:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if hasattr(value, "tolist"):  # NumPy's numbers and arrays
            return value.tolist()
        raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")

    return json.loads(json.dumps(content, default=ready))


def json_checksum(content: Any) -> str:
    """Return the SHA-256 of what JSON has, whatever the order of a dict's keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_json(path: str | os.PathLike, content: dict, provenance: dict) -> None:
    """Write a manifest: ``content`` with its provenance under the key ``provenance``."""
    ready = as_json(content | {"provenance": provenance})
    text = json.dumps(ready | {CHECKSUM: json_checksum(ready)}, indent=1)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> dict:
    """Read a manifest, its provenance included; its checksum is verified."""
    try:
        content = json.loads(present(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        if content.pop(CHECKSUM, None) not in (None, json_checksum(content)):
            raise ValueError("its content does not match its checksum")
    except (OSError, ValueError) as error:
        raise unreadable(path, error, "a JSON file") from None
    return content


def check_model_files(folder: str | os.PathLike, names: Iterable[str]) -> None:
    """Verify files of a model folder, by name or pattern, whose SHA-256 its manifest states.

    A folder of another program has no manifest. Raises UserError if a file is missing or damaged:
    the whole folder then is.
    """
    folder, wanted = Path(folder), list(names)
    if not folder.exists():
        raise not_there(folder, "correct the path of the model's folder")
    if not (folder / MODEL_MANIFEST).is_file():
        return
    manifest = read_json(folder / MODEL_MANIFEST)
    listed = manifest.get("files") or {MODEL_WEIGHTS: manifest.get("sha256")}
    for name, stated in listed.items():
        if stated is None or not any(fnmatch(name, pattern) for pattern in wanted):
            continue
        if not (folder / name).is_file():
            raise damaged(folder, f"{name} is missing")
        if file_sha256(folder / name) != stated:
            raise damaged(folder, f"{name} does not match the checksum in {MODEL_MANIFEST}")


def write_table(path: str | os.PathLike, table: pd.DataFrame, provenance: dict) -> None:
    """Write a table as parquet, provenance in its metadata and a checksum on every page."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = dict(arrow.schema.metadata or {})
    facts = json.dumps(as_json(provenance)).encode()
    metadata |= {METADATA_KEY.encode(): facts, CHECKSUM.encode(): _frame_checksum(arrow, facts)}
    with atomic_path(path) as temporary:
        pq.write_table(arrow.replace_schema_metadata(metadata), temporary, write_page_checksum=True)


def read_table(path: str | os.PathLike) -> tuple[pd.DataFrame, dict]:
    """Read a parquet table and its provenance."""
    import pyarrow.parquet as pq

    try:
        arrow = pq.read_table(present(path), page_checksum_verification=True)
        metadata = arrow.schema.metadata or {}
        facts = metadata.get(METADATA_KEY.encode(), b"{}")
        if metadata.get(CHECKSUM.encode()) not in (None, _frame_checksum(arrow, facts)):
            raise ValueError("its columns or its provenance do not match their checksum")
        return arrow.to_pandas(), json.loads(facts)
    except Exception as error:  # what a damaged footer breaks is without bound
        raise unreadable(path, error, "a parquet table") from None


def _frame_checksum(arrow: pa.Table, facts: bytes) -> bytes:
    """Return a checksum of what the pages' own do not cover: columns, rows and provenance."""
    columns = [(field.name, str(field.type)) for field in arrow.schema]
    how = (arrow.schema.metadata or {}).get(b"pandas", b"")  # how they become pandas' again
    content = json.dumps([columns, arrow.num_rows]).encode() + how + facts
    return hashlib.sha256(content).hexdigest().encode()


def write_csv(path: str | os.PathLike, table: pd.DataFrame, provenance: dict) -> None:
    """Write a small table for people as CSV, its provenance beside it as ``<stem>.json``."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
        content = {"csv_sha256": file_sha256(temporary)}
    write_json(Path(path).with_suffix(".json"), content, provenance)


def read_csv(path: str | os.PathLike, **how: Any) -> pd.DataFrame:
    """Read a table that :func:`write_csv` wrote; verify the checksum beside it, if there is one.

    ``how`` is for :func:`pandas.read_csv`.
    """
    import pandas as pd

    sidecar = present(path).with_suffix(".json")
    stated = read_json(sidecar).get("csv_sha256") if sidecar.is_file() else None
    if stated not in (None, file_sha256(path)):
        raise damaged(path, f"its content does not match the checksum in {sidecar.name}")
    try:
        return pd.read_csv(path, **how)
    except ValueError as error:
        raise damaged(path, " ".join(str(error).split())) from None
