"""The user's own files: rules ignore their times, and have a digest of their content in params."""

import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ntktune.errors import UserError
from ntktune.store.files import atomic_path, file_sha256
from ntktune.store.records import json_checksum

# In Snakemake's own folder, which a dry run has, too: a large file is read only when it changes.
KEPT = Path(".snakemake/user_files.json")
_found: dict[str, Any] = {}  # by this process, which may have no such folder
SETTLED = 2 * 10**9  # nanoseconds: a file that changed later may change again unseen


def _kept() -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return json.loads(KEPT.read_text(encoding="utf-8"))
    return {}


def _keep(found: dict[str, Any]) -> None:
    """Keep what was found where Snakemake has its folder, if that can be written."""
    if found and KEPT.parent.is_dir():
        with suppress(OSError, UserError), atomic_path(KEPT) as temporary:
            temporary.write_text(json.dumps(_kept() | found), encoding="utf-8")


def content_digest(files: Iterable[str]) -> str:
    """Return a digest of files' names and contents; UserError if one cannot be read.

    A file is read again only when its size, times or inode have changed.
    """
    kept, found, listed = _kept(), {}, []
    for name in sorted(files):
        status, path = os.stat(name), os.path.abspath(name)
        seen = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        stated, checksum = kept.get(path, (None, None))
        if stated != seen:
            checksum = file_sha256(name)
            if time.time_ns() - status.st_ctime_ns > SETTLED:
                found[path] = [seen, checksum]
        listed.append([name, checksum])
    _keep(found)
    return json_checksum(listed)


def found_once(files: Iterable[str], about: Any, find: Callable[[], Any]) -> Any:
    """Return what ``find`` returns, which is called once for these contents and ``about``.

    ``files`` are those that it reads, ``about`` all else that it depends on, as JSON has it.
    """
    key = json_checksum([content_digest(files), about])
    if key not in _found:
        kept = _kept()
        _found[key] = kept[key] if key in kept else find()
        if key not in kept:
            _keep({key: _found[key]})
    return _found[key]
