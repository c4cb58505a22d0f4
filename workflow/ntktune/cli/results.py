"""Commands on a study's results as a whole."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tarfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from ntktune.artifacts import (
    MODEL_MANIFEST,
    atomic_path,
    check_model_files,
    damaged,
    file_sha256,
    read_csv,
    read_json,
    read_table,
    results_of,
    stored_tensors,
)
from ntktune.cli import add_command
from ntktune.errors import UserError, not_there
from ntktune.unfinished import FOLDER as UNFINISHED
from ntktune.unfinished import begin, runs, unfinished

# Large, or other people's texts and weights: figures and tables are drawn without them.
LEFT_OUT = (
    "data/model/*",
    "data/packages/*",
    "data/*/table.parquet",
    "data/*/tokens.safetensors",
    "taskvectors/*/*.safetensors",
    "state/finetune/*",
    f"{UNFINISHED}/*",  # one list, of what is missing, is packed in their place
    "kernel/*/tiles/*",  # the gathered kernel is there
    "*.damaged",
    "*.damaged/*",
)
RECORDS, LOCKS = Path(".snakemake/metadata"), Path(".snakemake/locks")
FIGURES = (".pdf", ".svg", ".png")


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs."""
    what = "the study's folder, as results/quickstart; give it from the repository's root"
    parser = add_command(verbs, "check", check)
    parser.add_argument("--folder", required=True, help=what)
    parser = add_command(verbs, "archive", archive)
    parser.add_argument("--folder", required=True, help=what)
    parser.add_argument("--out", required=True, help="the archive (.tar.gz)")


def check(args: argparse.Namespace) -> None:
    """Verify a study's files against their checksums; set damaged ones aside.

    Tables, tensors, manifests, figures and the model have some; downloaded packages have theirs
    verified when they are read.
    """
    folder = _study_folder(args.folder)
    count = _verify(folder, sorted(_files(folder, set())))
    print(f"{folder}: {count} files, none damaged")


def archive(args: argparse.Namespace) -> None:
    """Pack a study's results, without models and texts, with what Snakemake knows of them."""
    folder = _study_folder(args.folder)
    if not args.out.endswith(".tar.gz"):
        raise UserError(f"--out {args.out} must end in .tar.gz")
    if Path(args.out).resolve().is_relative_to(folder.resolve()):
        raise UserError(f"--out {args.out} would stand in what it packs; choose another folder")
    files = sorted(_files(folder, set()))
    kept = [path for path in files if not _left_out(path.relative_to(folder).as_posix())]
    _verify(folder, kept)
    records = [record for record in map(_record, kept) if record.is_file()]
    missing = sorted(unfinished(args.folder))
    with (
        atomic_path(args.out) as temporary,
        tarfile.open(temporary, "w:gz", compresslevel=6, dereference=True) as packed,
    ):
        for path in [*kept, *records]:
            packed.add(path, filter=_anonymous)
        if missing:
            _add_json(packed, folder / UNFINISHED / "archive.json", {"files": missing})
    left = sum(path.stat().st_size for path in set(files) - set(kept))
    size = Path(args.out).stat().st_size
    print(
        f"{args.out}: {len(kept)} files, {size / 1e6:,.1f} MB; left out: models, texts and "
        f"weights, {left / 1e6:,.0f} MB",
        file=sys.stderr,
    )
    if missing:
        print(
            f"warning: the study's last run did not end: {len(missing)} of its files are missing "
            f"({missing[0]}, ...); where the archive is unpacked, they are made first",
            file=sys.stderr,
        )


def _study_folder(name: str) -> Path:
    folder = Path(name)
    if not folder.is_dir():
        raise not_there(folder, "run the study first, or name its folder, as results/quickstart")
    if folder.is_absolute() or ".." in folder.parts or not (folder / "config.yaml").is_file():
        raise UserError(
            f"--folder {folder} is no study's results: give results/<study>, from the "
            "repository's root, after a run"
        )
    return folder


def _verify(folder: Path, files: list[Path]) -> int:
    """Verify every file that a rule made; return the number checked.

    Those are the files that Snakemake has a record of. Files that somebody else put there are left
    alone.

    Raises
    ------
    UserError
        Some are damaged: a line for each. They were set aside, and the next run makes them again,
        also where nothing else needs them. Or a Snakemake makes them at the moment.
    """
    _check_nothing_runs(folder)
    aside, count = set(), 0
    try:
        for path in files:
            whole = path.parent if path.name == MODEL_MANIFEST else path
            readings = _readings(path) if _record(whole).is_file() else []
            count += bool(readings)
            for about, read in readings:
                if not about.is_file():  # with another one it was set aside, or somebody removed it
                    continue
                try:
                    with results_of(folder):
                        read()
                except UserError as error:
                    print(error, file=sys.stderr)
                    aside.add(str(whole if about == path else about))
    finally:
        if aside:
            begin(str(folder), aside)
    if aside:
        raise UserError(f"{len(aside)} of {count} files are damaged")
    return count


def _check_nothing_runs(folder: Path) -> None:
    """Raise UserError if a Snakemake makes the study at the moment."""
    for run in runs(str(folder)):
        if run.goes_on:
            raise UserError(
                f"a Snakemake (process {run.process}) makes {folder}: let it finish first"
            )
        # it cannot be asked; while nobody holds a lock, it has ended
        if run.goes_on is None and LOCKS.is_dir() and any(LOCKS.iterdir()):
            raise UserError(
                f"a Snakemake on {run.machine} makes {folder}, or was killed: let it finish, or "
                f"remove {run.path}"
            )


def _readings(path: Path) -> list[tuple[Path, Callable[[], object]]]:
    """Return what a file can be held against: which file is read, and how."""
    sidecar = path.with_suffix(".json")
    if path.name == MODEL_MANIFEST:
        return [(path, lambda: check_model_files(path.parent, read_json(path).get("files", {})))]
    if path.suffix in (".csv", *FIGURES):
        read = read_csv if path.suffix == ".csv" else _check_figure
        # without its sidecar it has no checksum: a damaged one is not its fault
        return [
            (sidecar, lambda: read_json(sidecar)),
            (path, lambda: sidecar.is_file() and read(path)),
        ]
    readers = {".parquet": read_table, ".safetensors": stored_tensors, ".json": read_json}
    return [(path, lambda: readers[path.suffix](path))] if path.suffix in readers else []


def _check_figure(path: Path) -> None:
    sidecar = path.with_suffix(".json")
    stated = read_json(sidecar).get("files", {}).get(path.name)
    if stated is not None and file_sha256(path) != stated:
        raise damaged(path, f"its content does not match the checksum in {sidecar.name}")


def _files(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the files below a folder, links followed; hidden ones are left-overs, or tools' own."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files(path, seen)
        elif path.is_file():
            yield path


def _left_out(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in LEFT_OUT)


def _record(path: Path) -> Path:
    """Return where Snakemake keeps what a file was made from: its path in base64, in pieces."""
    name = urlsafe_b64encode(os.fsencode(path)).decode()
    pieces = [name[i : i + 254] for i in range(0, len(name), 254)]
    return RECORDS.joinpath(*(f"@{piece}" for piece in pieces[:-1]), pieces[-1])


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who packed it, and where."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _add_json(packed: tarfile.TarFile, path: Path, content: dict) -> None:
    text = json.dumps(content, indent=1).encode()
    member = tarfile.TarInfo(path.as_posix())
    member.size, member.mtime = len(text), int(time.time())
    packed.addfile(member, io.BytesIO(text))
