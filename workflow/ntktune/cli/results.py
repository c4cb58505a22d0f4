"""Commands on a study's results as a whole."""

from __future__ import annotations

import argparse
import os
import sys
import tarfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from ntktune.artifacts import atomic_path
from ntktune.cli import add_command
from ntktune.errors import UserError
from ntktune.unfinished import unfinished

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
    parser = add_command(verbs, "archive", archive)
    what = "the study's folder, as results/quickstart; give it from the repository's root"
    parser.add_argument("--folder", required=True, help=what)
    parser.add_argument("--out", required=True, help="the archive (.tar.gz)")


def archive(args: argparse.Namespace) -> None:
    """Pack a study's results, without models and texts, with what Snakemake knows of them."""
    folder = Path(args.folder)
    if folder.is_absolute() or ".." in folder.parts or not (folder / "config.yaml").is_file():
        raise UserError(
            f"--folder {folder} is no study's results: give results/<study>, from the "
            "repository's root, after a run"
        )
    if not args.out.endswith(".tar.gz"):
        raise UserError(f"--out {args.out} must end in .tar.gz")
    if Path(args.out).resolve().is_relative_to(folder.resolve()):
        raise UserError(f"--out {args.out} would stand in what it packs; choose another folder")
    files = sorted(_files(folder, set()))
    kept = [path for path in files if not _left_out(path.relative_to(folder).as_posix())]
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
