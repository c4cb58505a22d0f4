"""The user's own files, told apart by their content.

Snakemake compares times, and checksums only of small files. If a large file were touched or copied,
everything would run again; if an older file replaced it, nothing would. So the rules that read
these files ignore their times and have a digest of their content among their params.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ntktune.artifacts import atomic_path, file_sha256
from ntktune.errors import UserError

SETTLED = 2 * 10**9  # nanoseconds: a file that changed later may change again unseen


def content_digest(files: Iterable[str], cache: str | os.PathLike) -> str:
    """Return a digest of files' names and contents.

    Parameters
    ----------
    files
        The files; all of them exist.
    cache
        A JSON file that keeps each file's checksum with its size, times and inode, so that a file
        is read again only when one of them has changed. It is written where its folder exists.

    Raises
    ------
    UserError
        A file cannot be read.
    """
    cache, known = Path(cache), {}
    with suppress(OSError, ValueError):
        known = json.loads(cache.read_text(encoding="utf-8"))
    digest, found, now = hashlib.sha256(), dict(known), time.time_ns()
    for name in sorted(files):
        status = os.stat(name)
        seen = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        stated, checksum = known.get(os.path.abspath(name), (None, None))
        if stated != seen:
            checksum = file_sha256(name)
            if now - status.st_ctime_ns > SETTLED:
                found[os.path.abspath(name)] = [seen, checksum]
        digest.update(json.dumps([name, checksum]).encode())
    if found != known and cache.parent.is_dir():
        with suppress(OSError, UserError), atomic_path(cache) as temporary:
            temporary.write_text(json.dumps(found), encoding="utf-8")
    return digest.hexdigest()
