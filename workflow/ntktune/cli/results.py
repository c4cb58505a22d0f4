"""Commands on a study's results as a whole."""

from __future__ import annotations

import argparse
import os
import sys
import tarfile
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from ntktune.artifacts import (
    MODEL_MANIFEST,
    RESULTS_VARIABLE,
    atomic_path,
    check_model_files,
    damaged,
    file_sha256,
    read_csv,
    read_json,
    read_table,
    stored_tensors,
)
from ntktune.cli import add_command
from ntktune.errors import UserError
from ntktune.unfinished import begin, unfinished

# Large, or other people's texts and weights: figures and tables are drawn without them.
LEFT_OUT = (
    "data/model/*",
    "data/packages/*",
    "data/*/table.parquet",
    "data/*/tokens.safetensors",
    "taskvectors/*/*.safetensors",
    "state/finetune/*",
    "kernel/*/tiles/*",  # the gathered kernel is there
    "*.damaged",
    "*.damaged/*",
)
RECORDS = Path(".snakemake/metadata")


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs."""
    what = "the study's folder, as results/quickstart; give it from the repository's root"
    parser = add_command(verbs, "check", check)
    parser.add_argument("--folder", required=True, help=what)
    parser = add_command(verbs, "archive", archive)
    parser.add_argument("--folder", required=True, help=what)
    parser.add_argument("--out", required=True, help="the archive (.tar.gz)")


def check(args: argparse.Namespace) -> None:
    """Hold all of a study's files against their checksums; set damaged ones aside."""
    folder = _study_folder(args.folder)
    files = sorted(_files(folder, set()))
    _verify(folder, files)
    print(f"{folder}: {len(files)} files, none damaged")


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
    with (
        atomic_path(args.out) as temporary,
        tarfile.open(temporary, "w:gz", compresslevel=6, dereference=True) as packed,
    ):
        for path in [*kept, *records]:
            packed.add(path, filter=_anonymous)
    left = sum(path.stat().st_size for path in set(files) - set(kept))
    size = Path(args.out).stat().st_size
    print(
        f"{args.out}: {len(kept)} files, {size / 1e6:,.1f} MB; left out: models, texts and "
        f"weights, {left / 1e6:,.0f} MB",
        file=sys.stderr,
    )
    missing = sorted(unfinished(args.folder))
    if missing:
        print(
            f"warning: the study's last run did not end: {len(missing)} of its files are missing "
            f"({missing[0]}, ...); where the archive is unpacked, they are made first",
            file=sys.stderr,
        )


def _study_folder(name: str) -> Path:
    folder = Path(name)
    if folder.is_absolute() or ".." in folder.parts or not (folder / "config.yaml").is_file():
        raise UserError(
            f"--folder {folder} is no study's results: give results/<study>, from the "
            "repository's root, after a run"
        )
    return folder


def _verify(folder: Path, files: list[Path]) -> None:
    """Read files as their readers do.

    Raises
    ------
    UserError
        Some are damaged: a line for each. They were set aside, and the next run makes them again,
        also where nothing else needs them.
    """
    os.environ[RESULTS_VARIABLE] = str(folder.resolve())
    models = {path.parent for path in files if path.name == MODEL_MANIFEST}
    told, aside = [], set()
    for path in files:
        if path.suffix == ".damaged" or (path.parent in models and path.name != MODEL_MANIFEST):
            continue
        for about, read in _readings(path):
            if not about.is_file():  # with another one it was set aside, or somebody removed it
                continue
            try:
                read()
            except UserError as error:
                told.append(str(error))
                aside.add(str(about.parent if about.name == MODEL_MANIFEST else about))
    if told:
        begin(str(folder), aside)
        raise UserError("\n".join([f"{len(told)} of {len(files)} files are damaged", *told]))


def _readings(path: Path) -> Iterator[tuple[Path, Callable[[], object]]]:
    """Yield what a file says of itself and of those beside it: which file, and how to read it."""
    readers = {".parquet": read_table, ".safetensors": stored_tensors, ".csv": read_csv}
    if path.suffix in readers:
        yield path, lambda: readers[path.suffix](path)
    if path.suffix != ".json":
        return
    manifest: dict = {}
    yield path, lambda: manifest.update(read_json(path))
    stated = manifest.get("files", {})
    if path.name == MODEL_MANIFEST:
        yield path, lambda: check_model_files(path.parent, stated)
    elif isinstance(stated, dict):
        for name, digest in stated.items():
            yield (
                path.with_name(name),
                lambda name=name, digest=digest: _check_figure(path.with_name(name), digest),
            )


def _check_figure(path: Path, digest: str) -> None:
    if file_sha256(path) != digest:
        raise damaged(path, f"its content does not match the checksum in {path.stem}.json")


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
    """Leave out who packed it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
