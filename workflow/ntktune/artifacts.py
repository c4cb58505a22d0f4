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
STEM = 100  # letters of a file's name in that of its temporary one, which is longer
ABANDONED = 3 * 86400  # seconds after which nobody writes a temporary file any more
FREE_SPACE = "free some space and run the same command again"
NOT_WRITABLE = "make the folder writable, or choose another"
FAILED_SERVER = "the file system failed; run the same command again"
UNWRITABLE = {
    errno.ENOSPC: FREE_SPACE,
    errno.EDQUOT: FREE_SPACE,
    errno.EFBIG: FREE_SPACE,
    errno.EROFS: NOT_WRITABLE,
    errno.EACCES: NOT_WRITABLE,
    errno.EPERM: NOT_WRITABLE,
    errno.ENOENT: "no file can be made there; choose another folder",
    # as file systems on a network have them
    errno.EIO: FAILED_SERVER,
    errno.ESTALE: FAILED_SERVER,
    errno.ETIMEDOUT: FAILED_SERVER,
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


def _json_ready(value: Any) -> Any:
    """Turn what JSON does not know (paths, NumPy numbers) into what it knows."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def _as_json(content: dict) -> dict:
    """Return a dict as it is read back from JSON: the form that checksums are of."""
    return json.loads(json.dumps(content, default=_json_ready))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _finish_file(path: Path) -> None:
    """Sync a file and give it the permissions of any new file (safetensors writes 0600)."""
    umask = os.umask(0)
    os.umask(umask)
    with open(path, "rb+") as file:
        os.fchmod(file.fileno(), 0o666 & ~umask)
        os.fsync(file.fileno())


def system_error(error: Exception) -> int | None:
    """Return the number of the system's error that an exception stands for, None if for none."""
    number = getattr(error, "errno", None)
    if number is None:  # safetensors has its own exceptions, with the system's number in the text
        told = re.search(r"\(os error (\d+)\)", str(error))
        number = int(told.group(1)) if told else None
    return number


def unwritable(path: str | os.PathLike, error: Exception) -> UserError | None:
    """Return the error for what the system refused to write, None for any other exception."""
    number = system_error(error)
    if number not in UNWRITABLE:
        return None
    return UserError(f"{path} cannot be written: {os.strerror(number)}; {UNWRITABLE[number]}")


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
    _remove_left_over(path)
    # the suffix is kept: some writers choose the format by it
    own = f"{platform.node()}~{os.getpid()}~{uuid.uuid4().hex[:8]}"
    temporary = path.with_name(f".{path.stem[:STEM]}.{own}{path.suffix}")
    replaced = temporary.with_name(f"{temporary.name}~")
    try:
        yield temporary
        for file in temporary.rglob("*") if temporary.is_dir() else [temporary]:
            if file.is_file() and not file.is_symlink():  # a link's file is its owner's
                _finish_file(file)
        if path.exists() and temporary.is_dir() != path.is_dir():
            raise UserError(
                f"{path} is a {'folder' if path.is_dir() else 'file'}, where a "
                f"{'folder' if temporary.is_dir() else 'file'} would go; choose another name"
            )
        if path.is_dir():
            # a folder cannot be renamed over a filled one; it is whole until it is out of the way
            os.replace(path, replaced)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except Exception as error:
        refused, about = unwritable(path, error), getattr(error, "filename", None)
        # a file that was only to be read has a name of its own; what is missing may be one, too
        if about is None and system_error(error) != errno.ENOENT:
            about = temporary
        if refused and str(about).startswith(str(temporary)):
            raise refused from None
        raise
    finally:
        if os.path.lexists(replaced) and not os.path.lexists(path):
            os.replace(replaced, path)
        _remove(temporary)
        _remove(replaced)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if there is one, as far as the system allows it."""
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def remove_left_overs(folder: str | os.PathLike) -> None:
    """Remove what processes anywhere below a folder left half written when they were killed.

    Writing a file removes its own left-overs; this removes the rest.
    """
    found: list[Path] = []
    with contextlib.suppress(OSError):  # others are at work there
        found += Path(folder).rglob(".*~*~*[!~]")
    for other in found:
        with contextlib.suppress(OSError):
            if _is_left_over(other, ".+?", r"(\..*)?"):
                _remove(other)


def _remove_left_over(path: Path) -> None:
    """Remove what processes left beside ``path`` when they were killed.

    A folder that was out of the way for its successor, which never came, goes back.
    """
    stem, suffix = re.escape(path.stem[:STEM]), re.escape(path.suffix)
    with contextlib.suppress(OSError):
        for other in path.parent.iterdir():
            if _is_left_over(other, stem, suffix):
                if other.name.endswith("~") and not os.path.lexists(path):
                    os.replace(other, path)
                _remove(other)


def _is_left_over(file: Path, stem: str, suffix: str) -> bool:
    """Return whether a file is an abandoned temporary one, by patterns of its name.

    It is if its process has ended (this machine), or if it is days old (other machines).
    """
    named = re.fullmatch(rf"\.{stem}\.([^~]+)~(\d+)~[0-9a-f]{{8}}{suffix}~?", file.name)
    if not named:
        return False
    if named[1] == platform.node():
        return _has_ended(int(named[2]))
    return time.time() - file.lstat().st_mtime > ABANDONED


def _has_ended(process: int) -> bool:
    """Return whether there is no process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's
        pass
    return False


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
        raise _unreadable(path, error) from None


def _unreadable(path: str | os.PathLike, error: Exception, form: str = "") -> Exception:
    """Return the error for a file that could not be read: the system's, or its own damage.

    A file is set aside only for what is wrong with the file itself, not for a missing permission
    or a disk or memory that failed. ``form`` is what it should be, as "a JSON file".
    """
    number = system_error(error)
    if number is not None:
        return UserError(f"{path} cannot be read: {os.strerror(number)}")
    if isinstance(error, MemoryError):
        return error
    why = (str(error) or type(error).__name__).splitlines()[0]
    return damaged(path, f"read as {form}: {why}" if form else why)


@contextlib.contextmanager
def results_of(folder: str | os.PathLike) -> Iterator[None]:
    """Take a folder for the results of a running study: damaged files there are set aside."""
    before = os.environ.get(RESULTS_VARIABLE)
    os.environ[RESULTS_VARIABLE] = os.path.abspath(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[RESULTS_VARIABLE]
        else:
            os.environ[RESULTS_VARIABLE] = before


def in_results(path: str | os.PathLike) -> bool:
    """Return whether a path is among the results of a running study."""
    results = os.environ.get(RESULTS_VARIABLE)
    return bool(results) and Path(path).resolve().is_relative_to(Path(results).resolve())


def _lost_checksum(path: str | os.PathLike, stated: object) -> bool:
    """Return whether a file states no checksum but must: all of a study's results do.

    Damage may hit what names the checksum. Files of others, such as a model's weights, have none.
    """
    return stated is None and Path(path).name != MODEL_WEIGHTS and in_results(path)


def damaged(path: str | os.PathLike, why: str) -> UserError:
    """Return the error for a file, or a folder, that is not what was written.

    In the results of a running study it is renamed to ``<name>.damaged``: its rule then makes
    it again. A file elsewhere may be the user's own: nothing advises to delete it.
    """
    path = Path(path)
    if path.name == MODEL_MANIFEST:  # without it the folder is of no use
        path, why = path.parent, f"{path.name}: {why}"
    told = f"{path} is damaged or not what it should be ({why}); "
    if in_results(path):
        aside = path.with_name(f"{path.name}.damaged")
        if not path.exists():
            return UserError(f"{told}another job set it aside: run the same command again")
        with contextlib.suppress(OSError):  # read-only
            _remove(aside)
            os.replace(path, aside)
            told += f"it was renamed to {aside.name}: run the same command again to rebuild it"
            return UserError(told)
        return UserError(told + "delete it and run the same command again to rebuild it")
    return UserError(told + "give the right file, or make it again")


def _present(path: str | os.PathLike) -> Path:
    path = Path(path)
    if path.is_dir():
        if in_results(path):
            raise damaged(path, "it is a folder")
        raise UserError(f"{path} is a folder; name a file")
    if not path.is_file():
        raise not_there(path, "make it first, or correct the path")
    return path


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
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, "a JSON file") from None
    if not isinstance(content, dict):
        raise damaged(path, "it holds no JSON object")
    stated = content.pop(CHECKSUM, None)
    if stated not in (None, _json_checksum(content)) or _lost_checksum(path, stated):
        raise damaged(path, "its content does not match its checksum")
    return content


def _json_checksum(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_model_files(folder: str | os.PathLike, names: Iterable[str]) -> None:
    """Verify files of a model folder whose SHA-256 its manifest states.

    Names may be patterns such as ``*.safetensors``. Names without a checksum are passed over, and
    so is a folder that another program wrote.

    Raises
    ------
    UserError
        One is missing or damaged. The whole folder then is.
    """
    folder = Path(folder)
    if not folder.exists():
        raise not_there(folder, "correct the path of the model's folder")
    if not (folder / MODEL_MANIFEST).is_file():
        return
    manifest = read_json(folder / MODEL_MANIFEST)
    listed = manifest.get("files") or {MODEL_WEIGHTS: manifest.get("sha256")}
    wanted = list(names)
    for name, stated in listed.items():
        if stated is None or not any(name == n or fnmatch(name, n) for n in wanted):
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
    facts = json.dumps(provenance, default=_json_ready).encode()
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
        stated = metadata.get(CHECKSUM.encode())
        if stated not in (None, _frame_checksum(arrow, facts)) or _lost_checksum(path, stated):
            raise ValueError("its columns or its provenance do not match their checksum")
        return arrow.to_pandas(), json.loads(facts)
    except UserError:
        raise
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
    if stated not in (None, file_sha256(path)) or _lost_checksum(path, stated):
        raise damaged(path, f"its content does not match the checksum in {sidecar.name}")
    try:
        return pd.read_csv(path)
    except ValueError as error:
        raise damaged(path, str(error)) from None


def _checksum(tensors: Mapping[str, torch.Tensor | np.ndarray | StoredTensor]) -> str:
    """Return one SHA-256 of names, dtypes, shapes and values, equal for torch and NumPy.

    Torch tensors and stored ones are taken stretch by stretch.
    """
    import numpy as np

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name} {dtype} {tuple(tensor.shape)}".encode())
        if isinstance(tensor, np.ndarray):
            flat = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
            digest.update(memoryview(flat))
            continue
        for part in stretches(tensor.shape, STRETCH):
            digest.update(memoryview(_bytes(tensor[part])))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's memory as bytes."""
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


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


def _facts_in(path: str | os.PathLike, file: Any) -> dict[str, Any]:
    """Return what a safetensors file says of itself; raise ValueError if it is damaged."""
    facts = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    stated = facts.get(CHECKSUM)
    if stated not in (None, _json_checksum(facts.get("provenance", {}))) or any(
        _lost_checksum(path, facts.get(key)) for key in (CHECKSUM, "sha256")
    ):
        raise ValueError("its provenance does not match its checksum")
    return facts


@contextlib.contextmanager
def _opened(path: str | os.PathLike, framework: str = "pt") -> Iterator[Any]:
    """Open a safetensors file; raise UserError that names it if that cannot be."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_present(path), framework=framework) as file:
            yield file
    except (SafetensorError, OSError, MemoryError, ValueError) as error:
        raise _unreadable(path, error, "a safetensors file") from None


def _read_named(path: str | os.PathLike, framework: str) -> tuple[dict[str, Any], dict]:
    with _opened(path, framework) as file:
        facts = _facts_in(path, file)
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    # files of others, such as a model's weights, carry no checksum of ours
    if "sha256" in facts and facts["sha256"] != _checksum(tensors):
        raise damaged(path, "its content does not match its checksum")
    return tensors, facts.get("provenance", {})


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict]:
    """Read named torch tensors and their provenance; the checksum is verified."""
    return _read_named(path, "pt")


def content_sha256(path: str | os.PathLike) -> str | None:
    """Return the checksum that a safetensors file states of its tensors, None if it states none.

    Files of the same tensors have the same, whenever and however they were made.
    """
    with _opened(path, "numpy") as file:
        return _facts_in(path, file).get("sha256")


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
        with _opened(self.path) as file:
            found = file.get_tensor(self.name) if rows is ... else file.get_slice(self.name)[rows]
        return found.to(self.dtype) if self.dtype else found


def stored_tensors(path: str | os.PathLike) -> tuple[dict[str, StoredTensor], dict]:
    """Return a file's tensors, read in stretches when they are used, and its provenance.

    The checksum is verified: the file is read through once, in little memory.
    """
    with _opened(path) as file:
        facts = _facts_in(path, file)
        names = file.keys()
        shapes = {name: file.get_slice(name).get_shape() for name in names}
    found = {name: StoredTensor(path, name, shape) for name, shape in shapes.items()}
    if "sha256" in facts and facts["sha256"] != _checksum(found):
        raise damaged(path, "its content does not match its checksum")
    return found, facts.get("provenance", {})


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


STRETCH = 2**20  # numbers that are read or written at a time
STORED_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
}


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
        stored = STORED_NAMES[str(dtype).removeprefix("torch.")]
        header[name] = {"dtype": stored, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    unknown = "0" * 64  # the checksum stands before the values that it is of
    facts = _stated(unknown, provenance)
    header["__metadata__"] = {"format": "pt", METADATA_KEY: facts}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with atomic_path(path) as temporary:
        with open(temporary, "xb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for name, part in parts:
                end = 8 + len(head) + header[name]["data_offsets"][1]
                file.write(memoryview(_bytes(part.detach().cpu())))
                if file.tell() > end or part.dtype != layout[name][1]:
                    raise ValueError(f"the stretches of {name} are not those of its layout")
            if file.tell() != 8 + len(head) + start:
                raise ValueError(f"{path}: stretches are missing")
        digest = _checksum(
            {name: StoredTensor(temporary, name, shape) for name, (shape, _) in layout.items()}
        )
        with open(temporary, "rb+") as file:
            file.seek(8 + head.index(unknown.encode()))
            file.write(digest.encode())


def read_arrays(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """Read named tensors as NumPy arrays, and their provenance; the checksum is verified."""
    return _read_named(path, "numpy")
