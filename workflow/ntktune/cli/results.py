"""Commands on a study's results as a whole."""

import argparse
import os
import sys
import tarfile
from base64 import urlsafe_b64encode
from fnmatch import fnmatch
from pathlib import Path

from ntktune.cli import add_command
from ntktune.errors import UserError, not_there
from ntktune.store.files import MODEL_MANIFEST, RESULTS_VARIABLE, atomic_path, damaged, file_sha256
from ntktune.store.records import check_model_files, read_csv, read_json, read_table
from ntktune.store.tensors import stored_tensors
from ntktune.store.unfinished import begin, finish, unfinished

# Large, or other people's texts and weights: figures and tables are drawn without them.
LEFT_OUT = (
    "data/model/*",
    "data/packages/*",
    "data/*/table.parquet",
    "data/*/tokens.safetensors",
    "selection/models/*",
    "selection/*/tokens.safetensors",
    "taskvectors/*/*.safetensors",
    "state/finetune/*",
    "state/selection/*",
    "kernel/*/shards/*",  # the gathered kernel is there
    "*.damaged",
    "*.damaged/*",
)
RECORDS, LOCKS = Path(".snakemake/metadata"), Path(".snakemake/locks")


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs."""
    add_command(verbs, "check", check, "folder")
    add_command(verbs, "archive", archive, "folder", out="the archive (.tar.gz)")


def check(args: argparse.Namespace) -> None:
    """Verify a study's files against their checksums; set damaged ones aside.

    Tables, tensors, manifests, figures and the model have some; downloaded packages have theirs
    verified when they are read.
    """
    folder = _study_folder(args.folder)
    print(f"{folder}: {_verify(folder, _files(folder))} files, none damaged")


def archive(args: argparse.Namespace) -> None:
    """Pack a study's results, without models and texts, with what Snakemake knows of them."""
    folder = _study_folder(args.folder)
    if not args.out.endswith(".tar.gz"):
        raise UserError(f"--out {args.out} must end in .tar.gz")
    if Path(args.out).resolve().is_relative_to(folder.resolve()):
        raise UserError(f"--out {args.out} would stand in what it packs; choose another folder")
    finish(args.folder)  # models that stay here are not listed as missing where it is unpacked
    files = _files(folder)
    names = {path: path.relative_to(folder).as_posix() for path in files}
    kept = [p for p in files if not any(fnmatch(names[p], pattern) for pattern in LEFT_OUT)]
    _verify(folder, kept)
    records = [record for record in map(_record, kept) if record.is_file()]
    with (
        atomic_path(args.out) as temporary,
        tarfile.open(temporary, "w:gz", compresslevel=6, dereference=True) as packed,
    ):
        for path in [*kept, *records]:
            packed.add(path, filter=_anonymous)
    left = sum(path.stat().st_size for path in set(files) - set(kept))
    size = f"{Path(args.out).stat().st_size / 1e6:,.1f} MB"
    left_out = f"models, texts and weights, {left / 1e6:,.0f} MB"
    print(f"{args.out}: {len(kept)} files, {size}; left out: {left_out}", file=sys.stderr)
    if missing := sorted(unfinished(args.folder)):
        told = f"the study's last run did not end: {len(missing)} of its files are missing"
        then = "where the archive is unpacked, they are made first"
        print(f"warning: {told} ({missing[0]}, ...); {then}", file=sys.stderr)


def _study_folder(name: str) -> Path:
    folder = Path(name)
    if not folder.is_dir():
        raise not_there(folder, "run the study first, or name its folder, as results/quickstart")
    if folder.is_absolute() or ".." in folder.parts or not (folder / "config.yaml").is_file():
        raise UserError(
            f"--folder {folder} is no study's results: give results/<study>, from the "
            "repository's root, after a run"
        )
    for lock in LOCKS.glob("*.lock"):
        if f"{folder}/" in lock.read_text(encoding="utf-8"):
            raise UserError(
                f"a Snakemake makes {folder}, or was killed: let it finish, or run snakemake "
                "--unlock first"
            )
    return folder


def _verify(folder: Path, files: list[Path]) -> int:
    """Verify every file that Snakemake has a record of; return their number.

    Damaged ones are told, set aside, and listed for the next run, which makes them again.
    """
    os.environ[RESULTS_VARIABLE] = str(folder.resolve())
    # what is damaged is set aside: a table whose sidecar was has no checksum
    ordered = sorted(files, key=lambda path: path.suffix != ".json")
    wholes = {path: path.parent if path.name == MODEL_MANIFEST else path for path in ordered}
    made = [p for p in ordered if p.suffix in READERS and _record(wholes[p]).is_file()]
    found = 0
    for path in made:
        try:
            READERS[path.suffix](path)
        except UserError as error:
            print(error, file=sys.stderr)
            begin(str(folder), [str(wholes[path])])
            found += 1
    if found:
        raise UserError(f"{found} of {len(made)} files are damaged")
    return len(made)


def _check_json(path: Path) -> None:
    if path.name == MODEL_MANIFEST:
        check_model_files(path.parent, ["*"])
    else:
        read_json(path)


def _check_figure(path: Path) -> None:
    sidecar = path.with_suffix(".json")
    stated = read_json(sidecar)["files"].get(path.name) if sidecar.is_file() else None
    if stated not in (None, file_sha256(path)):
        raise damaged(path, f"its content does not match the checksum in {sidecar.name}")


READERS = {
    ".json": _check_json,
    ".csv": read_csv,
    ".parquet": read_table,
    ".safetensors": stored_tensors,
} | dict.fromkeys((".pdf", ".svg", ".png"), _check_figure)


def _files(folder: Path) -> list[Path]:
    """Return the files below a folder, links followed; hidden ones are tools' own."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


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
