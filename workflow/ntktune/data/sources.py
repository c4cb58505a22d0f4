"""Where a task's rows come from: the hub, files, a package, or a generator.

A source that cannot be had here (no network, no such file) is passed over for the
next one, and the artifact says why. A source that is there and wrong stops everything:
going on with another one would hide the mistake.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ntktune.data.archives import archive_texts, check_fetched
from ntktune.data.cleaning import hash_order, normalised, text_or_none
from ntktune.data.generated import generated_rows
from ntktune.data.hub import HubUnavailableError, load_hub_splits
from ntktune.data.scored_sentences import scored_sentences
from ntktune.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".parquet": "parquet"}
OWN_COLUMNS = {"id": "id", "text_a": "text", "text_b": None, "label": "label"} | {
    "label_noise": "label_noise",
    "group": "group",
}


class SourceUnavailableError(Exception):
    """A source cannot be had here and now; the message is the reason, one line."""


@dataclass
class SourceRows:
    """What a source gave.

    Attributes
    ----------
    frames
        Rows by split (``train``, perhaps ``test``), columns id, text_a, text_b, label,
        label_noise, group as far as the source has them.
    origin
        What was read, for the provenance.
    beyond
        Rows by split that were left in the source because of ``limits``.
    """

    frames: dict[str, pd.DataFrame]
    origin: dict[str, Any]
    beyond: dict[str, int] = field(default_factory=dict)


def wanted_columns(
    columns: dict[str, str | None], there: Iterable[str], where: str
) -> dict[str, str]:
    """Return the columns that a task names, ours to theirs, if all of them are there.

    Raises
    ------
    UserError
        One is not; those that are there are listed.
    """
    there = list(map(str, there))
    wanted = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    missing = [f"{theirs!r} ({ours})" for ours, theirs in wanted.items() if theirs not in there]
    if missing:
        raise UserError(
            f"{where} has no column {' and no '.join(missing)}; "
            f"its columns are {', '.join(there) or 'none'}; correct `columns`"
        )
    return wanted


def own_names(frame: pd.DataFrame, columns: dict[str, str | None], where: str) -> pd.DataFrame:
    """Return a frame's columns that a task names, under the study's names."""
    wanted = wanted_columns(columns, frame.columns, where)
    return pd.DataFrame({ours: frame[theirs] for ours, theirs in wanted.items()})


def _delimited(path: Path, delimiter: str, quoting: int) -> pd.DataFrame:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        header = next(reader, [])
        twice = [name for name in header if header.count(name) > 1]
        if twice:
            raise UserError(f"{path}: the column {twice[0]!r} stands there twice; rename one")
        rows = []
        for row in reader:
            if row and len(row) != len(header):
                hint = "; in tsv quotes hold no field together: use csv for such texts"
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(row)} fields, but the header has "
                    f"{len(header)}{hint if delimiter != ',' else ''}"
                )
            if row:
                rows.append(row)
    return pd.DataFrame(rows, columns=header, dtype=object)


def _json_lines(path: Path) -> pd.DataFrame:
    rows = []
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no text
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: no JSON ({error})") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: not a JSON object: {line.strip()[:60]}")
            rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def file_rows(path: str | os.PathLike, form: str | None) -> pd.DataFrame:
    """Return the rows of one file, columns as they are called there.

    Parameters
    ----------
    path
        The file.
    form
        csv, tsv (quotes are text, as in GLUE's files), jsonl or parquet; None takes it
        from the file's ending.

    Raises
    ------
    UserError
        The format is unknown, or the file is damaged or empty.
    """
    path = Path(path)
    form = form or FORMATS.get(path.suffix)
    try:
        if form == "csv":
            frame = _delimited(path, ",", csv.QUOTE_MINIMAL)
        elif form == "tsv":
            frame = _delimited(path, "\t", csv.QUOTE_NONE)
        elif form == "jsonl":
            frame = _json_lines(path)
        elif form == "parquet":
            frame = pd.read_parquet(path)
        else:
            raise UserError(
                f"the format of {path} cannot be told from its ending {path.suffix!r}; "
                f"set `format` to one of {', '.join(FORMATS.values())}"
            )
    except (ValueError, csv.Error, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged or not in the format {form}: {reason}") from None
    if frame.empty:
        raise UserError(f"{path} holds no rows")
    return frame


def _from_files(source: dict, definition: dict, package: Path | None) -> SourceRows:
    frames, origin = {}, {"source": "files"}
    for split in ("train", "test"):
        paths = source[split] or []
        paths = [paths] if isinstance(paths, str) else paths
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise SourceUnavailableError(f"{split} file {missing[0]} does not exist")
        if paths:
            parts = [
                own_names(file_rows(path, source["format"]), definition["columns"], str(path))
                for path in paths
            ]
            frames[split] = pd.concat(parts, ignore_index=True)
            origin[split] = paths
    return SourceRows(frames, origin)


def _from_package(source: dict, definition: dict, package: Path | None) -> SourceRows:
    label = f"the package {source['name']} {source['version']}"
    if package is None or not Path(package).is_file():
        given = f"{package} does not exist" if package else "no --package-file was given"
        raise SourceUnavailableError(f"{label} is needed, but {given}")
    check_fetched(package, source["sha256"], label)
    member = source["member"]
    names = [f"{member}_GroundTruth.txt", f"{member}_anonDataRatings.txt"]
    texts = archive_texts(package, names)
    frame, counts = scored_sentences(*(texts[name] for name in names), f"{label}: {names[0]}")
    if frame.empty:
        raise UserError(f"{label}: {names[0]} holds no rows")
    origin = {"source": "package"} | source | counts
    return SourceRows({"train": own_names(frame, OWN_COLUMNS, label)}, origin)


def _from_generator(source: dict, definition: dict, package: Path | None) -> SourceRows:
    frames = generated_rows(
        definition["kind"],
        {split: source["rows"][split] for split in ("train", "test")},
        seed=source["seed"],
        words=source["words"],
        noise=source["noise"],
    )
    frames = {split: own_names(f, OWN_COLUMNS, "generated") for split, f in frames.items()}
    return SourceRows(frames, {"source": "generated"} | source)


def _normalised_rows(table: pa.Table, names: list[str]) -> Iterator[str]:
    # in pieces: the texts of a large data set do not fit into memory as Python strings
    for batch in table.to_batches(max_chunksize=10_000):
        for row in zip(*(batch[name].to_pylist() for name in names), strict=True):
            yield normalised(*(text_or_none(text) or "" for text in row))


def _from_hub(source: dict, definition: dict, package: Path | None) -> SourceRows:
    splits = {split: names for split, names in definition["splits"].items() if names}
    try:
        tables, commit = load_hub_splits(
            source["id"], source["config"], source["revision"], source["files"], splits
        )
    except HubUnavailableError as error:
        raise SourceUnavailableError(str(error)) from None
    frames, beyond = {}, {}
    for split, table in tables.items():
        where = f"{source['id']}, {split}"
        if not table.num_rows:
            raise UserError(f"{where} holds no rows")
        wanted = wanted_columns(definition["columns"], table.column_names, where)
        table = table.select(sorted(set(wanted.values())))
        limit = definition["limits"][split]
        # a split of millions of rows is not cleaned whole when a few thousand are wanted;
        # twice as many are taken, so that enough are left when the bad ones are gone
        if limit is not None and "test" in splits and table.num_rows > 2 * limit:
            names = [wanted[key] for key in ("text_a", "text_b") if key in wanted]
            chosen = np.zeros(table.num_rows, dtype=bool)
            chosen[hash_order(_normalised_rows(table, names), 2 * limit)] = True
            beyond[split] = table.num_rows - 2 * limit
            table = table.filter(chosen)
        frames[split] = own_names(table.to_pandas(), definition["columns"], where)
    origin = {"source": "hub"} | source | {"commit": commit, "splits": splits}
    return SourceRows(frames, origin, beyond)


READERS = {
    "hub": _from_hub,
    "files": _from_files,
    "package": _from_package,
    "generated": _from_generator,
}


def read_sources(
    definition: dict, name: str, package_file: str | os.PathLike | None = None
) -> SourceRows:
    """Return the rows of the first of a task's sources that can be had here.

    Parameters
    ----------
    definition
        A complete task definition.
    name
        The task's name, for messages.
    package_file
        The downloaded archive that a ``package`` source reads.

    Returns
    -------
    SourceRows
        Its ``origin`` has the key ``passed_over``: the sources before it and why.

    Raises
    ------
    UserError
        No source can be had (all are listed with their reasons), or one is wrong.
    """
    passed_over = []
    for i, entry in enumerate(definition["sources"]):
        kind, source = next(iter(entry.items()))
        package = Path(package_file) if package_file else None
        try:
            rows = READERS[kind](source, definition, package)
        except SourceUnavailableError as reason:
            passed_over.append({"source": kind, "reason": str(reason)})
        except UserError as error:
            raise UserError(f"{name}, source {i + 1} ({kind}): {error}") from None
        else:
            rows.origin["passed_over"] = passed_over
            return rows
    reasons = "; ".join(f"{i + 1}. {p['source']}: {p['reason']}" for i, p in enumerate(passed_over))
    raise UserError(f"{name}: none of its sources can be had here: {reasons}")
