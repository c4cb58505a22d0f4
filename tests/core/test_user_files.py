"""The user's own files: a digest of their content, whatever their times, read once."""

import os
import time
from pathlib import Path

import pytest

from ntktune.errors import UserError
from ntktune.store import user_files
from ntktune.store.user_files import content_digest, found_once

OLD = 1_000_000_000 * 10**9  # nanoseconds: the year 2001


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake").mkdir()
    names = ["a.csv", "b.csv"]
    for name in names:
        (tmp_path / name).write_text(f"text,label\n{name},1\n")
    return names


def test_the_digest_follows_content_and_names_and_no_times(files):
    first = content_digest(files)
    os.utime(files[0])
    os.utime(files[1], ns=(OLD, OLD))
    assert content_digest(reversed(files)) == first
    os.rename(files[0], f"{files[0]}~")
    assert content_digest([f"{files[0]}~", files[1]]) != first
    # an older file of the same size in the same place
    with open(files[0], "w") as file:
        file.write("text,label\na.csv,2\n")
    os.utime(files[0], ns=(OLD, OLD))
    assert content_digest(files) != first


def test_a_file_is_read_again_only_when_it_may_have_changed(files, monkeypatch):
    read = []
    real = user_files.file_sha256
    monkeypatch.setattr(user_files, "file_sha256", lambda name: read.append(name) or real(name))
    first = content_digest(files)
    assert content_digest(files) == first
    assert read == files * 2  # they have just been written: they may be written again
    now = time.time_ns()
    monkeypatch.setattr(user_files.time, "time_ns", lambda: now + 10**11)
    for _ in range(3):
        assert content_digest(files) == first
    os.utime(files[1], ns=(OLD, OLD))
    assert content_digest(files) == first
    assert read == [*files * 3, files[1]]
    user_files.KEPT.write_text("{")
    assert content_digest(files) == first


def test_what_depends_on_a_files_content_is_found_once_for_each(files):
    found = []

    def find():
        found.append(Path(files[0]).read_text())
        return len(found)

    assert [found_once(files, ["a"], find) for _ in range(3)] == [1, 1, 1]
    assert found_once(files, ["another"], find) == 2
    with open(files[0], "a") as file:
        file.write("more")
    assert found_once(files, ["a"], find) == 3


def test_another_process_finds_what_was_kept(files, monkeypatch):
    assert found_once(files, ["kept"], lambda: 1) == 1
    monkeypatch.setattr("ntktune.store.user_files._found", {})
    assert found_once(files, ["kept"], lambda: 2) == 1


def test_nothing_is_kept_where_snakemake_has_no_folder(files, tmp_path):
    (tmp_path / ".snakemake").rmdir()
    # a plan asks for each size and method: a large file is read once all the same
    assert [found_once(files, [], lambda i=i: i) for i in (1, 2)] == [1, 1]
    assert sorted(os.listdir()) == files


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder cannot be read: Is a directory"):
        content_digest([str(tmp_path / "folder")])
