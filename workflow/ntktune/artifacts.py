"""Reading and writing the study's files.

Every artifact is written under a temporary name in its own folder, synced, and
renamed: a killed job leaves no half file. Each carries its provenance, inside the
file where the format has room for it (safetensors, parquet, JSON), in a JSON file
of the same stem beside it otherwise (CSV). All carry checksums (parquet tables one on every
page, and one of the rest), so that a damaged file is named instead of believed;
within a study's results it is also set aside, so that the next run makes it again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune import __version__
from ntktune.code_digest import code_digest
from ntktune.device import gpu_peak_memory, peak_memory_bytes
from ntktune.errors import UserError, not_there

if TYPE_CHECKING:
    import argparse

    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import torch

METADATA_KEY = "ntktune"
MODEL_MANIFEST, MODEL_WEIGHTS = "model.json", "model.safetensors"  # in a model's folder
CONVERTED = "converted.safetensors"  # beside linked weights: tensors that they lack as they are
CHECKSUM = "sha256_of_the_rest"  # of a JSON file, and of provenance
# Environment variable: the folder in which every file is made by a rule of the running study.
RESULTS_VARIABLE = "NTKTUNE_RESULTS"
STRETCH = 2**20  # numbers that are read or written at a time
STEM = 100  # letters of a file's name in that of its temporary one, which is longer
LEFT_OVER = re.compile(r"\..*\.[0-9a-f]{32}~(\..*)?")  # the name of a temporary file
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PLACE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR)
FAILED = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)  # as file systems on a network do
ADVICE = {
    NO_SPACE: "free some space and run the same command again",
    NO_PLACE: "make the folder writable, or choose another",
    FAILED: "the file system failed; run the same command again",
}


class Record:
    """What a command did, for the provenance of the artifacts it writes.

    Parameters
    ----------
    entry
        The command's function as ``"ntktune.cli.kernel:gram"``.
    args
        The parsed command line: which command, and the slice of the configuration that it used.
    """

    def __init__(self, entry: str, args: argparse.Namespace):
        self.entry = entry
        self.command = f"{args._chapter} {args._verb}"
        self.settings = {
            k: v for k, v in vars(args).items() if not callable(v) and not k.startswith("_")
        }
        self.started = time.monotonic()

    def provenance(self, **facts: Any) -> dict[str, Any]:
        """Return the provenance so far, with a command's own facts added.

        Usual facts: ``model`` and ``data`` (from the inputs' own provenance), ``seeds``,
        ``dtype``, ``device``.
        """
        versions = {"ntktune": __version__, "python": platform.python_version()}
        for name in ("numpy", "torch", "transformers", "datasets", "pandas", "scipy"):
            if name in sys.modules:
                versions[name] = sys.modules[name].__version__
        record = {
            "command": self.command,
            "settings": self.settings,
            "code": code_digest(self.entry),
            "versions": versions,
            "wall_seconds": round(time.monotonic() - self.started, 3),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        return record | gpu_peak_memory() | facts


# Files


def system_error(error: Exception) -> int | None:
    """Return the number of the system's error that an exception stands for, None if for none."""
    # safetensors has its own exceptions, with the system's number in the text
    told = re.search(r"\(os error (\d+)\)", str(error))
    return getattr(error, "errno", None) or (int(told[1]) if told else None)


def unwritable(path: str | os.PathLike, error: Exception) -> UserError | None:
    """Return the error for what the system refused to write, None for any other exception."""
    number = system_error(error)
    advice = next((told for numbers, told in ADVICE.items() if number in numbers), None)
    return advice and UserError(f"{path} cannot be written: {os.strerror(number)}; {advice}")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success sync it and rename it to ``path``.

    On an error the temporary file is removed and ``path`` stays as it was. A folder
    may be made at the temporary path as well as a file.

    Raises
    ------
    UserError
        The system refuses to write: no space, no permission.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(
            f"{path} is neither a file nor a folder and would be replaced; choose another"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) or UserError(
            f"{path} cannot be written: {error.strerror} ({error.filename})"
        ) from None
    # the suffix is kept: some writers choose the format by it
    temporary = path.with_name(f".{path.stem[:STEM]}.{uuid.uuid4().hex}~{path.suffix}")
    replaced = temporary.with_name(f"{temporary.name}~")
    try:
        yield temporary
        for file in [temporary, *temporary.rglob("*")]:
            if file.is_file() and not file.is_symlink():  # a link's file is its owner's
                _finish_file(file)
        if temporary.is_dir() and path.is_dir():  # which cannot be renamed over a filled one
            os.replace(path, replaced)
        os.replace(temporary, path)
    except Exception as error:
        # a file that was only to be read has a name of its own
        about = str(getattr(error, "filename", None) or temporary)
        if about.startswith(str(temporary)) and (refused := unwritable(path, error)):
            raise refused from None
        raise
    finally:
        _remove(temporary)
        _remove(replaced)


def _finish_file(path: Path) -> None:
    """Sync a file and give it the permissions of any new file (safetensors writes 0600)."""
    umask = os.umask(0)
    os.umask(umask)
    with open(path, "rb+") as file:
        os.fchmod(file.fileno(), 0o666 & ~umask)
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    """Remove a file or a folder, if there is one, as far as the system allows it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def remove_left_overs(folder: str | os.PathLike) -> None:
    """Remove what processes anywhere below a folder left half written when they were killed."""
    for path in list(Path(folder).rglob(".*~*")):
        if LEFT_OVER.fullmatch(path.name):
            _remove(path)


def file_sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal.

    Raises
    ------
    UserError
        It cannot be read: a failing disk names no file.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error, "a file") from None


def _unreadable(path: str | os.PathLike, error: Exception, form: str) -> Exception:
    """Return the error for a file that could not be read as a ``form``, such as "a JSON file".

    A file is damaged only by what is wrong with the file itself, not by a missing permission or
    a disk or memory that failed.
    """
    number = system_error(error)
    if number is not None:
        return UserError(f"{path} cannot be read: {os.strerror(number)}")
    if isinstance(error, MemoryError | UserError):
        return error
    why = (str(error) or type(error).__name__).splitlines()[0]
    return damaged(path, f"read as {form}: {why}")


def in_results(path: str | os.PathLike) -> bool:
    """Return whether a path is among the results of a running study."""
    results = os.environ.get(RESULTS_VARIABLE)
    return bool(results) and Path(path).resolve().is_relative_to(Path(results).resolve())


def damaged(path: str | os.PathLike, why: str) -> UserError:
    """Return the error for a file, or a folder, that is not what was written.

    In the results of a running study it is renamed to ``<name>.damaged``: its rule then makes
    it again. A file elsewhere may be the user's own: nothing advises to delete it.
    """
    path = Path(path)
    if path.name == MODEL_MANIFEST:  # without it the folder is of no use
        path, why = path.parent, f"{path.name}: {why}"
    told = f"{path} is damaged or not what it should be ({why}); "
    if not in_results(path):
        return UserError(f"{told}give the right file, or make it again")
    aside = path.with_name(f"{path.name}.damaged")
    try:
        _remove(aside)
        os.replace(path, aside)
    except OSError:  # read-only, or another job was first
        return UserError(
            f"{told}delete it, if it is there, and run the same command again to rebuild it"
        )
    return UserError(
        f"{told}it was renamed to {aside.name}: run the same command again to rebuild it"
    )


def _present(path: str | os.PathLike) -> Path:
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder; name a file")
    if not Path(path).is_file():
        raise not_there(path, "make it first, or correct the path")
    return Path(path)


# Manifests


def _as_json(content: dict) -> dict:
    """Return a dict as it is read back from JSON: the form that checksums are of."""

    def ready(value: Any) -> Any:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if hasattr(value, "tolist"):  # NumPy's numbers and arrays
            return value.tolist()
        raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")

    return json.loads(json.dumps(content, default=ready))


def _json_checksum(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_json(path: str | os.PathLike, content: dict, provenance: dict) -> None:
    """Write a manifest: ``content`` with its provenance under the key ``provenance``."""
    ready = _as_json(content | {"provenance": provenance})
    text = json.dumps(ready | {CHECKSUM: _json_checksum(ready)}, indent=1)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> dict:
    """Read a manifest, its provenance included; its checksum is verified."""
    try:
        content = json.loads(_present(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        if content.pop(CHECKSUM, None) not in (None, _json_checksum(content)):
            raise ValueError("its content does not match its checksum")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, "a JSON file") from None
    return content


def check_model_files(folder: str | os.PathLike, names: Iterable[str]) -> None:
    """Verify files of a model folder whose SHA-256 its manifest states.

    Names may be patterns such as ``*.safetensors``. Names without a checksum are passed over, and
    so is a folder that another program wrote.

    Raises
    ------
    UserError
        One is missing or damaged. The whole folder then is.
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


# Tables


def write_table(path: str | os.PathLike, table: pd.DataFrame, provenance: dict) -> None:
    """Write a table as parquet, provenance in its metadata and a checksum on every page."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = dict(arrow.schema.metadata or {})
    facts = json.dumps(_as_json(provenance)).encode()
    metadata |= {METADATA_KEY.encode(): facts, CHECKSUM.encode(): _frame_checksum(arrow, facts)}
    with atomic_path(path) as temporary:
        pq.write_table(arrow.replace_schema_metadata(metadata), temporary, write_page_checksum=True)


def read_table(path: str | os.PathLike) -> tuple[pd.DataFrame, dict]:
    """Read a parquet table and its provenance."""
    import pyarrow.parquet as pq

    try:
        arrow = pq.read_table(_present(path), page_checksum_verification=True)
        metadata = arrow.schema.metadata or {}
        facts = metadata.get(METADATA_KEY.encode(), b"{}")
        if metadata.get(CHECKSUM.encode()) not in (None, _frame_checksum(arrow, facts)):
            raise ValueError("its columns or its provenance do not match their checksum")
        return arrow.to_pandas(), json.loads(facts)
    except Exception as error:  # what a damaged footer breaks is without bound
        raise _unreadable(path, error, "a parquet table") from None


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


def read_csv(path: str | os.PathLike) -> pd.DataFrame:
    """Read a table that :func:`write_csv` wrote, and verify its checksum.

    A table without its JSON file, or of others, has none.
    """
    import pandas as pd

    sidecar = _present(path).with_suffix(".json")
    stated = read_json(sidecar).get("csv_sha256") if sidecar.is_file() else None
    if stated not in (None, file_sha256(path)):
        raise damaged(path, f"its content does not match the checksum in {sidecar.name}")
    try:
        return pd.read_csv(path)
    except ValueError as error:
        raise damaged(path, str(error)) from None


# Tensors


def stretches(shape: Sequence[int], numbers: int) -> Iterator[Any]:
    """Yield indices that take a tensor apart into stretches of whole rows.

    A stretch holds about ``numbers`` numbers, and at least one row.
    """
    if not shape:
        yield ...
        return
    rows = max(1, numbers // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


def _bytes(tensor: torch.Tensor | np.ndarray) -> memoryview:
    """Return a tensor's or an array's memory, row by row."""
    import numpy as np

    if isinstance(tensor, np.ndarray):
        return memoryview(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))
    import torch

    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def _checksum(tensors: Mapping[str, torch.Tensor | np.ndarray | StoredTensor]) -> str:
    """Return one SHA-256 of names, dtypes, shapes and values, equal for torch and NumPy."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name} {dtype} {tuple(tensor.shape)}".encode())
        for part in stretches(tensor.shape, STRETCH):
            digest.update(_bytes(tensor[part]))
    return digest.hexdigest()


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, torch.Tensor | np.ndarray], provenance: dict
) -> None:
    """Write named tensors as safetensors, provenance and a checksum in the metadata.

    All are torch tensors or all are NumPy arrays; NumPy spares a command the seconds that
    torch takes to import.
    """
    import numpy as np

    if all(isinstance(tensor, np.ndarray) for tensor in tensors.values()):
        from safetensors.numpy import save_file

        ready = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    else:
        from safetensors.torch import save_file

        ready = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    # one entry only: safetensors writes several in a random order, other bytes every time
    facts = _stated(_checksum(ready), provenance)
    with atomic_path(path) as temporary:
        save_file(ready, temporary, metadata={METADATA_KEY: facts})


def _stated(checksum: str, provenance: dict) -> str:
    """Return what a safetensors file says of itself, with checksums of tensors and provenance."""
    ready = _as_json(provenance)
    facts = {"sha256": checksum, "provenance": ready, CHECKSUM: _json_checksum(ready)}
    return json.dumps(facts)


@contextlib.contextmanager
def _opened(path: str | os.PathLike, framework: str = "pt") -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a safetensors file; yield it and what it says of itself.

    Files of others, such as a model's weights, say nothing.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_present(path), framework=framework) as file:
            facts = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            if facts.get(CHECKSUM) not in (None, _json_checksum(facts.get("provenance", {}))):
                raise ValueError("its provenance does not match its checksum")
            yield file, facts
    except (SafetensorError, OSError, MemoryError, ValueError) as error:
        raise _unreadable(path, error, "a safetensors file") from None


def _read(path: str | os.PathLike, framework: str, *, whole: bool = True) -> tuple[dict, dict]:
    """Return a file's tensors, or what reads them, and its provenance; verify its checksum."""
    with _opened(path, framework) as (file, facts):
        names = list(file.keys())
        if whole:
            tensors = {name: file.get_tensor(name) for name in names}
        else:
            shapes = {name: file.get_slice(name).get_shape() for name in names}
            tensors = {name: StoredTensor(path, name, shapes[name]) for name in names}
    if facts.get("sha256") not in (None, _checksum(tensors)):
        raise damaged(path, "its content does not match its checksum")
    return tensors, facts.get("provenance", {})


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict]:
    """Read named torch tensors and their provenance; the checksum is verified."""
    return _read(path, "pt")


def read_arrays(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """Read named tensors as NumPy arrays, and their provenance; the checksum is verified."""
    return _read(path, "numpy")


def stored_tensors(path: str | os.PathLike) -> tuple[dict[str, StoredTensor], dict]:
    """Return a file's tensors, read in stretches when they are used, and its provenance.

    The checksum is verified: the file is read through once, in little memory.
    """
    return _read(path, "pt", whole=False)


def content_sha256(path: str | os.PathLike) -> str | None:
    """Return the checksum that a safetensors file states of its tensors, None if it states none.

    Files of the same tensors have the same, whenever and however they were made.
    """
    with _opened(path, "numpy") as (_, facts):
        return facts.get("sha256")


class StoredTensor:
    """A tensor in a safetensors file, of which rows are read when they are asked for.

    ``shape`` and ``dtype`` are as torch has them; ``stored[i:j]`` reads the rows i to j of the
    first dimension, ``stored[...]`` all. Rows become ``dtype`` where one is given.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype | None = None,
    ):
        self.path, self.name, self.shape, self.dtype = path, name, tuple(shape), dtype
        self.dtype = dtype or self[slice(0) if self.shape else ...].dtype

    def __getitem__(self, rows: Any) -> torch.Tensor:
        # opened each time: pages that were read of an open file stay in this process's memory
        with _opened(self.path) as (file, _):
            found = file.get_tensor(self.name) if rows is ... else file.get_slice(self.name)[rows]
        return found.to(self.dtype) if self.dtype else found


def stream_tensors(
    path: str | os.PathLike,
    layout: Mapping[str, tuple[Sequence[int], torch.dtype]],
    parts: Iterable[tuple[str, torch.Tensor]],
    provenance: dict,
) -> None:
    """Write named tensors as :func:`write_tensors` does, in little memory.

    Parameters
    ----------
    path
        The safetensors file.
    layout
        Name → shape and dtype (floating-point, or int64).
    parts
        Name and next stretch of it, tensor after tensor in the order of ``layout``.
    provenance
        As for :func:`write_tensors`.

    Raises
    ------
    ValueError
        The stretches are not those of the layout.
    """
    start, header = 0, {}
    for name, (shape, dtype) in layout.items():
        end = start + math.prod(shape) * dtype.itemsize
        kind, bits = re.fullmatch(r"torch\.(bf|f|i)\w*?(\d+)", str(dtype)).groups()
        stored = f"{kind}{bits}".upper()  # safetensors' name: F32, BF16, I64
        header[name] = {"dtype": stored, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    unknown = "0" * 64  # the checksum stands before the values that it is of
    header["__metadata__"] = {"format": "pt", METADATA_KEY: _stated(unknown, provenance)}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    first = 8 + len(head)
    with atomic_path(path) as temporary:
        with open(temporary, "xb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for name, part in parts:
                file.write(_bytes(part.detach().cpu()))
                end = first + header[name]["data_offsets"][1]
                if file.tell() > end or part.dtype != layout[name][1]:
                    raise ValueError(f"the stretches of {name} are not those of its layout")
            if file.tell() != first + start:
                raise ValueError(f"{path}: stretches are missing")
        written = {k: StoredTensor(temporary, k, shape) for k, (shape, _) in layout.items()}
        digest = _checksum(written)
        with open(temporary, "rb+") as file:
            file.seek(8 + head.index(unknown.encode()))
            file.write(digest.encode())
