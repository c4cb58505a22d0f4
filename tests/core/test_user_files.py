"""The user's own files: a digest of their content, whatever their times, read once."""

import os
import time

import pytest

from ntktune import user_files
from ntktune.errors import UserError
from ntktune.user_files import content_digest

OLD = 1_000_000_000 * 10**9  # nanoseconds: the year 2001


@pytest.fixture
def files(tmp_path):
    names = []
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(f"text,label\n{name},1\n")
        names.append(str(tmp_path / name))
    return names


def test_the_digest_follows_content_and_names_and_no_times(files, tmp_path):
    cache = tmp_path / "cache.json"
    first = content_digest(files, cache)
    os.utime(files[0])
    os.utime(files[1], ns=(OLD, OLD))
    assert content_digest(reversed(files), cache) == first
    assert content_digest(files, tmp_path / "nowhere/cache.json") == first
    os.rename(files[0], f"{files[0]}~")
    assert content_digest([f"{files[0]}~", files[1]], cache) != first
    # an older file of the same size in the same place
    with open(files[0], "w") as file:
        file.write("text,label\na.csv,2\n")
    os.utime(files[0], ns=(OLD, OLD))
    assert content_digest(files, cache) != first


def test_a_file_is_read_again_only_when_it_may_have_changed(files, tmp_path, monkeypatch):
    read, cache = [], tmp_path / "cache.json"
    real = user_files.file_sha256
    monkeypatch.setattr(user_files, "file_sha256", lambda name: read.append(name) or real(name))
    first = content_digest(files, cache)
    assert content_digest(files, cache) == first
    assert read == files * 2  # they have just been written: they may be written again
    now = time.time_ns()
    monkeypatch.setattr(user_files.time, "time_ns", lambda: now + 10**11)
    for _ in range(3):
        assert content_digest(files, cache) == first
    os.utime(files[1], ns=(OLD, OLD))
    assert content_digest(files, cache) == first
    assert read == [*files * 3, files[1]]
    cache.write_text("{")
    assert content_digest(files, cache) == first


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder cannot be read: Is a directory"):
        content_digest([str(tmp_path / "folder")], tmp_path / "cache.json")
