"""Where a task's rows come from: the hub, files, a package, or a generator.

A source that is not available here (no network, no such file) is passed over for the next one, and
the artifact says why. One that is there and wrong stops everything: the next would hide that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ntktune.data.archives import archive_files, check_fetched
from ntktune.data.cleaning import (
    classes_line,
    counts_line,
    found_classes,
    hash_order,
    normalised,
    task_table,
    text_or_none,
)
from ntktune.data.files import file_rows
from ntktune.data.generated import generated_rows
from ntktune.data.hub import UnavailableError, hub_files
from ntktune.data.scored_sentences import scored_sentences
from ntktune.errors import UserError, close_match

# What str() would turn into something that nobody wrote.
UNREADABLE = (bytes, list, tuple, set, dict, np.ndarray)


class ColumnError(UserError):
    """A column that a task names is not there."""


@dataclass
class SourceRows:
    """What a source gave, by split: ``train``, perhaps ``test``."""

    frames: dict[str, pd.DataFrame]  # columns as task_table takes them
    origin: dict[str, Any]  # what was read, for the provenance
    beyond: dict[str, int] = field(default_factory=dict)  # rows left there because of ``limits``


def own_names(frame: pd.DataFrame, columns: Mapping[str, str | None], where: str) -> pd.DataFrame:
    """Return a frame's columns that a task names, under the study's names.

    Raises ColumnError if a column is missing (those that are there are listed); UserError if one
    appears twice or a cell holds neither text nor number.
    """
    there = list(map(str, frame.columns))
    wanted = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    missing = []
    for ours, theirs in wanted.items():
        if theirs not in there:
            close = close_match(theirs, filter(None, there))
            missing.append(f"{theirs!r} ({ours}{close and '; '}{close})")
    if missing:
        raise ColumnError(
            f"{where} has no column {' and no '.join(missing)}; "
            f"its columns are {', '.join(filter(None, there)) or 'none'}"
        )
    if twice := [theirs for theirs in wanted.values() if there.count(theirs) > 1]:
        raise UserError(f"{where}: the column {twice[0]!r} appears twice; rename one")
    return pd.DataFrame({ours: _readable(frame[c], where) for ours, c in wanted.items()})


def _readable(column: pd.Series, where: str) -> pd.Series:
    """Return a column of texts and numbers: some writers of parquet leave texts as bytes."""
    if column.dtype != object or not any(issubclass(t, UNREADABLE) for t in set(map(type, column))):
        return column
    cells = column.tolist()
    for i, cell in enumerate(cells):
        try:
            if isinstance(cell, bytes):
                cells[i] = cell.decode()
            elif isinstance(cell, UNREADABLE):
                raise ValueError(f"a {type(cell).__name__}")
        except ValueError as error:
            raise UserError(
                f"{where}, row {i + 1}: the column {column.name!r} holds {cell!r:.60}, which is no "
                f"text ({error}); give a column of texts or numbers"
            ) from None
    return pd.Series(cells, column.index, dtype=object)


def _joined(files: Mapping[str, str | Path], form: str | None, columns: dict) -> pd.DataFrame:
    """Return the rows of some files, name to path, under the study's names."""
    parts = [own_names(file_rows(path, form), columns, name) for name, path in files.items()]
    return pd.concat(parts, ignore_index=True)


def _from_files(source: dict, definition: dict, package: str | None) -> SourceRows:
    frames, origin = {}, {"source": "files"}
    for split in ("train", "test"):
        paths = source[split] or []
        paths = [paths] if isinstance(paths, str) else paths
        for path in paths:
            if not Path(path).is_file():
                told = "is a folder; name its files" if Path(path).is_dir() else "does not exist"
                raise UnavailableError(f"{split} file {path} {told}")
        if paths:
            frames[split] = _joined({p: p for p in paths}, source["format"], definition["columns"])
            origin[split] = paths
    return SourceRows(frames, origin)


def _from_package(source: dict, definition: dict, package: str | None) -> SourceRows:
    label = f"the package {source['name']} {source['version']}"
    if not package or not Path(package).is_file():
        given = f"{package} does not exist" if package else "no --package-file was given"
        raise UnavailableError(f"{label} is needed, but {given}")
    check_fetched(package, source["sha256"], label)
    names = [f"{source['member']}_{part}.txt" for part in ("GroundTruth", "anonDataRatings")]
    texts = archive_files(package, names)
    frame, counts = scored_sentences(*(texts[name] for name in names), f"{label}: {names[0]}")
    if frame.empty:
        raise UserError(f"{label}: {names[0]} holds no rows")
    return SourceRows({"train": frame}, {"source": "package"} | source | counts)


def _from_generator(source: dict, definition: dict, package: str | None) -> SourceRows:
    rows = {split: source["rows"][split] for split in ("train", "test")}
    how = {key: source[key] for key in ("seed", "words", "noise")}
    frames = generated_rows(definition["kind"], rows, **how)
    return SourceRows(frames, {"source": "generated"} | source)


def _from_hub(source: dict, definition: dict, package: str | None) -> SourceRows:
    stated = definition["splits"]
    splits = {split: stated[split] for split in ("train", "test") if stated[split]}
    files, commit = hub_files(source, splits)
    frames, beyond = {}, {}
    for split, paths in files.items():
        named = {f"{source['id']}, {name}": path for name, path in paths.items()}
        frame = _joined(named, None, definition["columns"])
        limit = definition["limits"][split]
        # cleaning takes long: twice as many as wanted, so that enough are left without the bad ones
        if limit is not None and "test" in splits and len(frame) > 2 * limit:
            rows = zip(*(frame[key] for key in ("text_a", "text_b") if key in frame), strict=True)
            texts = (normalised(*(text_or_none(text) or "" for text in row)) for row in rows)
            beyond[split] = len(frame) - 2 * limit
            frame = frame.iloc[hash_order(texts, 2 * limit)]
        frames[split] = frame
    origin = {"source": "hub"} | source | {"commit": commit, "splits": splits}
    return SourceRows(frames, origin, beyond)


READERS = {
    "hub": _from_hub,
    "files": _from_files,
    "package": _from_package,
    "generated": _from_generator,
}


def read_sources(
    definition: dict,
    name: str,
    package_file: str | None = None,
    columns_advice: str = "correct `columns` in the task's file",
) -> SourceRows:
    """Return the rows of the first available source of a task.

    Its ``origin`` has the key ``passed_over``: the sources before it and why. ``definition`` is the
    complete one, ``name`` the task's in messages; ``package_file`` is the downloaded archive that a
    ``package`` source reads; ``columns_advice`` tells how to name another column if one is missing.
    Raises UserError if no source is available (all are listed with their reasons) or one is wrong.
    """
    passed_over = []
    for i, entry in enumerate(definition["sources"]):
        kind, source = next(iter(entry.items()))
        try:
            rows = READERS[kind](source, definition, package_file)
        except UnavailableError as reason:
            passed_over.append({"source": kind, "reason": str(reason)})
        except UserError as error:
            advice = f"; {columns_advice}" if isinstance(error, ColumnError) else ""
            raise UserError(f"{name}, source {i + 1} ({kind}): {error}{advice}") from None
        else:
            rows.origin["passed_over"] = passed_over
            return rows
    reasons = "; ".join(f"{i + 1}. {p['source']}: {p['reason']}" for i, p in enumerate(passed_over))
    raise UserError(f"{name}: none of its sources is available here: {reasons}")


def source_table(rows: SourceRows, definition: dict, name: str) -> tuple[pd.DataFrame, dict]:
    """Return the clean table of :func:`read_sources`, and counts; errors name task and source.

    Classes that the definition leaves to the data are filled in there.
    """
    try:
        if definition["kind"] == "classification" and definition["classes"] is None:
            definition["classes"] = found_classes(rows.frames)
        return task_table(rows.frames, definition, beyond=rows.beyond)
    except UserError as error:
        files = [file for split in ("train", "test") for file in rows.origin.get(split, ())]
        raise UserError(f"{name} ({' '.join([rows.origin['source'], *files])}): {error}") from None


def cleaned_rows(definition: dict, name: str, columns_advice: str) -> tuple[pd.DataFrame, str]:
    """Return the clean table of a task's first source, and its counts of rows in words."""
    rows = read_sources(definition, name, columns_advice=columns_advice)
    table, counts = source_table(rows, definition, name)
    told = counts_line(counts)
    if definition["kind"] == "classification":
        told += f"; {classes_line(table, definition['classes'])}"
    return table, told
