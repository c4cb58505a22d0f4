"""Archives of the Python package index: files are read in memory, and never unpacked."""

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ntktune.errors import UserError
from ntktune.store.files import damaged, file_sha256

ARCHIVES = (".tar.gz", ".tgz", ".tar")
# pip reads a requirement from a file, where it would obey a line break or an option
RELEASE = {
    "name": r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?",
    "version": r"[A-Za-z0-9][A-Za-z0-9.!+_-]*",
    "sha256": r"[0-9a-f]{64}",
}


def check_fetched(path: str | os.PathLike, expected: str, what: str) -> None:
    """Raise UserError if an archive has another SHA-256 than when it was fetched."""
    found = file_sha256(path)
    if found != expected:
        raise damaged(path, f"{what} has sha256 {found}, expected {expected}")


def download_archive(name: str, version: str, sha256: str, target: Path, *, sdist: bool) -> None:
    """Download one archive from the package index by pip, without what it depends on.

    pip checks the SHA-256 before it looks inside, so no code of another source archive runs.
    ``sdist`` chooses the source archive, not the wheel. Raises UserError if the name, version or
    checksum cannot be one, pip fails (its last line is quoted) or the checksum differs (both are).
    """
    for key, value in {"name": name, "version": version, "sha256": sha256}.items():
        if not re.fullmatch(RELEASE[key], value):
            raise UserError(f"a package's {key} cannot be {value!r}; it must match {RELEASE[key]}")
    with tempfile.TemporaryDirectory() as folder:
        requirements, downloads = Path(folder, "requirements.txt"), Path(folder, "download")
        requirements.write_text(f"{name}=={version} --hash=sha256:{sha256}\n", encoding="ascii")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input"]
        command += ["--disable-pip-version-check", "--progress-bar", "off"]
        command += ["--no-binary" if sdist else "--only-binary", ":all:"]
        command += ["--dest", str(downloads), "--requirement", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            shutil.copyfile(next(downloads.iterdir()), target)
            return
    if got := re.findall(r"^\s*Got\s+([0-9a-f]{64})\s*$", done.stderr, re.MULTILINE):
        raise UserError(
            f"the archive of {name} {version} has sha256 {got[-1]}, expected {sha256}; "
            "correct the checksum in the configuration, if you trust the archive"
        )
    errors = re.findall(r"^\s*ERROR: (.*\S)", done.stderr, re.MULTILINE)
    said = errors or done.stderr.strip().splitlines() or ["it said nothing"]
    raise UserError(f"pip could not download {name} {version}: {said[-1]}")


def installed_member(package: str, member: str) -> Path:
    """Return the path of an installed wheel's member; raise UserError if it is not there."""
    module, *inside = member.split("/")
    if not module.isidentifier() or not inside or ".." in inside:
        raise UserError(f"the member {member!r} must be a path inside a package, `package/file`")
    # looked up, not imported: the package's own dependencies need not be there
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


def _files(archive: BinaryIO, wanted: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield the names of the files in an archive, and in those inside it, and what is wanted."""
    wheel = zipfile.is_zipfile(archive)
    archive.seek(0)
    with zipfile.ZipFile(archive) if wheel else tarfile.open(fileobj=archive) as file:
        for entry in file.infolist() if wheel else filter(tarfile.TarInfo.isfile, file):
            name = entry.filename if wheel else entry.name
            content = b""
            if name.endswith((*ARCHIVES, *wanted)):
                content = file.read(entry) if wheel else file.extractfile(entry).read()
            if name.endswith(ARCHIVES):
                yield from _files(io.BytesIO(content), wanted)
            else:
                yield name, content


def archive_files(archive: str | os.PathLike, names: Sequence[str]) -> dict[str, bytes]:
    """Return files of a source archive (``.tar.gz``) or a wheel: name → content.

    A name may lack the folders before it; the first file of that name counts. Archives inside the
    archive, as of data sets, are searched, too. Raises UserError if it is damaged or lacks a file.
    """
    try:
        with open(archive, "rb") as opened:
            files = list(_files(opened, tuple(names)))
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{archive} is damaged or no archive of a package: {error}") from None
    found: dict[str, bytes] = {}
    for path, content in files:
        for name in names:
            if f"/{path}".endswith(f"/{name}"):
                found.setdefault(name, content)
    if missing := ", ".join(name for name in names if name not in found):
        shown = ", ".join(sorted(path for path, _ in files)[:10])
        raise UserError(f"{archive} does not contain {missing}; it has {shown}")
    return found
