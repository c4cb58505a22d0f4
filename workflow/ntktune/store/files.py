"""Files that are whole or not there, even after a job was killed, and files that are damaged."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from ntktune.errors import UserError, not_there

MODEL_MANIFEST, MODEL_WEIGHTS = "model.json", "model.safetensors"  # in a model's folder
CONVERTED = "converted.safetensors"  # beside linked weights: tensors that they lack as they are
# Environment variable: the folder in which every file is made by a rule of the running study.
RESULTS_VARIABLE = "NTKTUNE_RESULTS"
STEM = 100  # letters of a file's name in that of its temporary one, which is longer
LEFT_OVER = re.compile(r"\..*\.[0-9a-f]{32}~(\..*)?")  # the name of a temporary file
# What to do about an error of the system; the last are those of file systems on a network.
ADVICE = {
    "ENOSPC EDQUOT EFBIG": "free some space and run the same command again",
    "EROFS EACCES EPERM EISDIR ENOTDIR": "make the folder writable, or choose another",
    "EIO ESTALE ETIMEDOUT": "the file system failed; run the same command again",
}


def system_error(error: Exception) -> int | None:
    """Return the number of the system's error that an exception stands for, None if for none."""
    # safetensors has its own exceptions, with the system's number in the text
    told = re.search(r"\(os error (\d+)\)", str(error))
    return getattr(error, "errno", None) or (int(told[1]) if told else None)


def unwritable(path: str | os.PathLike, error: Exception) -> UserError | None:
    """Return the error for what the system refused to write, None for any other exception."""
    number = system_error(error)
    for names, advice in ADVICE.items():
        if errno.errorcode.get(number) in names.split():
            return UserError(f"{path} cannot be written: {os.strerror(number)}; {advice}")
    return None


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success sync it and rename it to ``path``.

    The caller makes a file or a folder there. On an error ``path`` stays as it was. Raises
    UserError if the system refuses to write, OSError if it refuses to make the folder above.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(
            f"{path} is neither a file nor a folder and would be replaced; choose another"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
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
    """Return the SHA-256 of a file's bytes, hexadecimal; UserError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error, "a file") from None


def unreadable(path: str | os.PathLike, error: Exception, form: str) -> Exception:
    """Return the error for a file that could not be read as a ``form``, such as "a JSON file".

    A missing permission, or a disk or memory that failed, is no damage of the file itself.
    """
    if (number := system_error(error)) is not None:
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

    In the results of a running study it is renamed to ``<name>.damaged``: its rule then makes it
    again. A file elsewhere may be the user's own: nothing advises to delete it.
    """
    path = Path(path)
    if path.name == MODEL_MANIFEST:  # without it the folder is of no use
        path, why = path.parent, f"{path.name}: {why}"
    told = f"{path} is damaged or not what it should be ({why})"
    if not in_results(path):
        return UserError(f"{told}; give the right file, or make it again")
    again = "run the same command again to rebuild it"
    aside = path.with_name(f"{path.name}.damaged")
    try:
        _remove(aside)
        os.replace(path, aside)
    except OSError:  # read-only, or another job was first
        return UserError(f"{told}; delete it, if it is there, and {again}")
    return UserError(f"{told}; it was renamed to {aside.name}: {again}")


def present(path: str | os.PathLike) -> Path:
    """Return a file's path; raise UserError if it is not there."""
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder; name a file")
    if not Path(path).is_file():
        raise not_there(path, "make it first, or correct the path")
    return Path(path)


def read_rate(path: str | os.PathLike, most: int = 2**28) -> float:
    """Return the bytes per second that a file's first ``most`` bytes are read at, from the disk.

    The system is asked to forget what it has read of the file before; it need not.
    """
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started, done = time.perf_counter(), 0
        while done < most and (part := file.read(2**22)):
            done += len(part)
        return done / max(time.perf_counter() - started, 1e-9)


def reserve(descriptor: int, size: int) -> None:
    """Make an open file so many bytes long, which the disk then has; OSError if it has not."""
    if hasattr(os, "posix_fallocate"):  # not on macOS, where a full disk shows later
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)
