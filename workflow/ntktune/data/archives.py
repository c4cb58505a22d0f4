"""Archives of the Python package index, and single members read out of them.

Nothing is ever unpacked into a folder: members are read by their name, so an archive
cannot write anywhere.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ntktune.errors import UserError
from ntktune.store.files import damaged, file_sha256, unwritable

# larger than any text member that is read, small enough not to fill the memory
MEMBER_LIMIT = 256 * 2**20


def check_sha256(path: str | os.PathLike, expected: str, what: str) -> None:
    """Compare a file's SHA-256 with the expected one.

    Raises
    ------
    UserError
        They differ; both stand in the message.
    """
    found = file_sha256(path)
    if found != expected:
        raise UserError(
            f"{what} ({path}) has sha256 {found}, expected {expected}; "
            "fetch it again, or correct the checksum in the configuration"
        )


def check_fetched(path: str | os.PathLike, expected: str, what: str) -> None:
    """Compare the SHA-256 of an archive that was checked when it was fetched.

    Raises
    ------
    UserError
        It is another: the file was damaged since.
    """
    found = file_sha256(path)
    if found != expected:
        raise damaged(path, f"{what} has sha256 {found}, expected {expected}")


def check_package(name: str, version: str, sha256: str) -> None:
    """Check that a package's name, version and checksum can be nothing but that.

    They go into pip's requirements file, where a line break or an option would be obeyed.

    Raises
    ------
    UserError
        One of them has another form.
    """
    patterns = (
        ("name", name, r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"),
        ("version", version, r"[A-Za-z0-9][A-Za-z0-9.!+_-]*"),
        ("sha256", sha256, r"[0-9a-f]{64}"),
    )
    for key, value, pattern in patterns:
        if not re.fullmatch(pattern, value):
            raise UserError(f"a package's {key} cannot be {value!r}; it must match {pattern}")


def download_archive(name: str, version: str, sha256: str, *, sdist: bool, folder: Path) -> Path:
    """Download one archive from the package index by pip, without what it depends on.

    pip itself is given the checksum: it refuses another archive before it looks inside,
    which for a source archive means before any of its code runs.

    Parameters
    ----------
    name, version, sha256
        The release, pinned.
    sdist
        True for the source archive, False for the wheel.
    folder
        An existing folder to download into.

    Returns
    -------
    pathlib.Path
        The archive inside ``folder``.

    Raises
    ------
    UserError
        pip failed (its last line is quoted), or the checksum differs (both are).
    """
    check_package(name, version, sha256)
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{name}=={version} --hash=sha256:{sha256}\n", encoding="ascii")
    downloads = folder / "download"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--no-binary" if sdist else "--only-binary", ":all:"]
    command += ["--dest", str(downloads), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        got = [line.split()[-1] for line in said if re.fullmatch(r"Got\s+[0-9a-f]{64}", line)]
        if got:
            raise UserError(
                f"the archive of {name} {version} has sha256 {got[-1]}, expected {sha256}; "
                "correct the checksum in the configuration, if you trust the archive"
            )
        errors = [line for line in said if line.startswith("ERROR:")] or said or ["it said nothing"]
        raise UserError(
            f"pip could not download {name} {version}: {errors[-1].removeprefix('ERROR: ')}"
        )
    files = sorted(downloads.iterdir())
    if len(files) != 1:
        raise UserError(
            f"pip downloaded {len(files)} files for {name} {version}, expected one archive: "
            + ", ".join(file.name for file in files)
        )
    check_sha256(files[0], sha256, f"the archive of {name} {version}")
    return files[0]


def copy_wheel_member(archive: Path, member: str, target: Path) -> None:
    """Copy one member of a wheel (a zip file) to a path of the caller's choice.

    Raises
    ------
    UserError
        The file is no wheel, or has no such member.
    """
    try:
        with (
            zipfile.ZipFile(archive) as file,
            file.open(member) as source,
            open(target, "wb") as sink,
        ):
            shutil.copyfileobj(source, sink, 2**20)
    except KeyError:
        with zipfile.ZipFile(archive) as file:
            there = ", ".join(sorted(file.namelist())[:10])
        raise UserError(f"{archive} has no member {member!r}; it has {there}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        if unwritable(target, error):
            raise
        raise UserError(f"{archive} is damaged or no wheel: {error}") from None


def installed_member(package: str, member: str) -> Path:
    """Return the path of a wheel's member where the wheel is installed.

    The package is looked up, not imported: its own dependencies need not be there.

    Raises
    ------
    UserError
        It is not installed, or lacks the member.
    """
    module, *inside = member.split("/")
    if not module.isidentifier() or not inside or ".." in inside:
        raise UserError(f"the member {member!r} must be a path inside a package, `package/file`")
    spec = importlib.util.find_spec(module)
    roots = list(spec.submodule_search_locations or []) if spec else []
    if not roots:
        raise UserError(
            f"no file of the package {package} was given and it is not installed; "
            "fetch it with `ntktune data fetch-package` and pass it as --package-file"
        )
    path = Path(roots[0]).joinpath(*inside)
    if not path.is_file():
        raise UserError(f"the installed package {package} has no file {member}: {path}")
    return path


def _too_large(name: str, size: int) -> None:
    if size > MEMBER_LIMIT:
        raise UserError(f"{name} holds {size} bytes, too many to read into memory")


def _tar_files(file: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for info in file:
        if info.isfile():
            _too_large(info.name, info.size)
            yield info.name, file.extractfile(info).read()


def _archive_files(archive: str | os.PathLike) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                _too_large(info.filename, info.file_size)
                yield info.filename, wheel.read(info)
    else:
        with tarfile.open(archive) as sdist:
            yield from _tar_files(sdist)


def archive_texts(archive: str | os.PathLike, names: list[str]) -> dict[str, bytes]:
    """Return files of an archive by their last name, in memory.

    Archives inside the archive are searched as well: authors pack data sets that way.

    Parameters
    ----------
    archive
        A source archive (``.tar.gz``) or a wheel.
    names
        File names without folders.

    Raises
    ------
    UserError
        The archive is damaged, or one of the files is not in it.
    """
    found: dict[str, bytes] = {}
    try:
        for path, content in _archive_files(archive):
            if path.endswith((".tar.gz", ".tgz", ".tar")):
                with tarfile.open(fileobj=io.BytesIO(content)) as inner:
                    pairs = list(_tar_files(inner))
            else:
                pairs = [(path, content)]
            for inside, data in pairs:
                name = inside.rsplit("/", 1)[-1]
                if name in names:
                    found.setdefault(name, data)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{archive} is damaged or no archive of a package: {error}") from None
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"{archive} does not contain {', '.join(missing)}")
    return found
