"""Files: atomic, with provenance, and damage is named."""

import argparse
import json
import os
import resource
import stat
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from ntktune.cli.record import record
from ntktune.cli.spectrum import fit
from ntktune.errors import UserError
from ntktune.store import files, records
from ntktune.store.tensors import (
    read_arrays,
    read_tensors,
    stored_tensors,
    stream_tensors,
    stretches,
    write_tensors,
)


def test_tensors_come_back_with_their_provenance(tmp_path):
    path = tmp_path / "deep" / "a.safetensors"
    tensors = {"x": torch.arange(6.0).reshape(2, 3).double(), "i": torch.tensor([1, 2])}
    write_tensors(path, tensors, {"seeds": [1, np.int64(2)]})
    read, provenance = read_tensors(path)
    assert provenance == {"seeds": [1, 2]}
    assert all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in tensors.items())
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_torch_and_numpy_write_and_read_the_same_file(tmp_path):
    arrays = {"x": np.arange(6.0).reshape(2, 3).T, "i": np.array([1, 2]), "b": np.uint8([1])}
    write_tensors(tmp_path / "n", arrays, {})
    write_tensors(tmp_path / "t", {k: torch.tensor(v) for k, v in arrays.items()}, {})
    assert (tmp_path / "n").read_bytes() == (tmp_path / "t").read_bytes()
    tensors, read = read_tensors(tmp_path / "n")[0], read_arrays(tmp_path / "t")
    for name, array in arrays.items():
        assert np.array_equal(tensors[name].numpy(), array)
        assert np.array_equal(read[0][name], array)
        assert read[0][name].dtype == array.dtype


def test_tables_come_back_with_their_provenance(tmp_path):
    path = tmp_path / "t.parquet"
    table = pd.DataFrame({"id": ["a", None], "label": [0.5, np.nan]})
    records.write_table(path, table, {"origin": {"path": tmp_path}})
    read, provenance = records.read_table(path)
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    assert provenance == {"origin": {"path": str(tmp_path)}}


def test_csv_has_its_provenance_beside_it(tmp_path):
    path = tmp_path / "table1.csv"
    records.write_csv(path, pd.DataFrame({"a": [1 / 3]}), {"code": "x"})
    assert path.read_text() == "a\n0.333333\n"
    assert records.read_json(tmp_path / "table1.json") == {
        "csv_sha256": files.file_sha256(path),
        "provenance": {"code": "x"},
    }
    assert records.read_csv(path)["a"].tolist() == [0.333333]
    path.write_text("a\n0.343333\n")
    with pytest.raises(UserError, match=r"table1.csv is damaged .*checksum in table1.json"):
        records.read_csv(path)


def test_a_manifest_with_another_number_is_damaged(tmp_path):
    path = tmp_path / "draws.json"
    records.write_json(path, {"draws": [[1, 2]], "é": np.float64(0.1)}, {"seeds": (1,)})
    assert records.read_json(path) == {
        "draws": [[1, 2]],
        "é": 0.1,
        "provenance": {"seeds": [1]},
    }
    text = path.read_text()
    for other in (text.replace("2", "3", 1), text[:-5], "[1]"):
        path.write_text(other)
        with pytest.raises(UserError, match=r"draws.json is damaged"):
            records.read_json(path)
    path.write_text('{"somebody": "else"}')
    assert records.read_json(path) == {"somebody": "else"}


def test_damage_in_a_studys_results_is_set_aside(tmp_path, monkeypatch):
    results = tmp_path / "results/s"
    monkeypatch.setenv(files.RESULTS_VARIABLE, str(results))
    for folder, kept in ((results / "data", False), (tmp_path / "mine", True)):
        path = folder / "draws.json"
        records.write_json(path, {"draws": []}, {})
        path.write_text("{")
        advice = "it was renamed to draws.json.damaged: run the same command again"
        with pytest.raises(UserError, match="give the right file" if kept else advice):
            records.read_json(path)
        assert path.exists() is kept
        assert (folder / "draws.json.damaged").exists() is not kept
    # a folder is replaced where the last damaged one stands
    for _ in range(2):
        (results / "model/part").mkdir(parents=True)
        assert "model.damaged" in str(files.damaged(results / "model", "a test"))
    assert [p.name for p in results.iterdir() if p.name != "data"] == ["model.damaged"]


def test_a_model_folder_is_held_against_its_manifest(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    names = ["config.json", "model.safetensors", "unlisted"]
    records.check_model_files(tmp_path, names)  # no manifest: another program's
    digests = {name: files.file_sha256(tmp_path / name) for name in names[:2]}
    facts = {"sha256": digests["model.safetensors"], "files": digests}
    records.write_json(tmp_path / "model.json", facts, {})
    records.check_model_files(tmp_path, names)
    (tmp_path / "config.json").write_text("[]")
    records.check_model_files(tmp_path, ["model.safetensors"])
    with pytest.raises(UserError, match=r"config.json does not match the checksum in model.json"):
        records.check_model_files(tmp_path, names)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"damaged .*config.json is missing.* give the right file"):
        records.check_model_files(tmp_path, names)


def test_what_killed_processes_left_half_written_is_removed(tmp_path):
    killed = (
        "import os, sys; from ntktune.store.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path: path.mkdir(); (path / 'x').touch(); os.kill("
        "os.getpid(), 9)"
    )
    for name in ("a/b/t.parquet", "m"):
        subprocess.run([sys.executable, "-c", killed, str(tmp_path / name)], check=False)
    (tmp_path / "a/.mine~5~6").touch()
    (tmp_path / "a/.t.mine.parquet").touch()
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4
    files.remove_left_overs(tmp_path)
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {".mine~5~6", ".t.mine.parquet"}
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == []
    files.remove_left_overs(tmp_path / "nothing")


def test_a_link_to_a_folder_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept").touch()
    (tmp_path / "m").symlink_to(tmp_path / "elsewhere")
    with files.atomic_path(tmp_path / "m") as path:
        path.mkdir()
    assert (tmp_path / "elsewhere/kept").exists()
    assert not (tmp_path / "m").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "m"]


WRITERS = {
    "a.safetensors": lambda path: write_tensors(path, {"x": torch.ones(50_000)}, {}),
    "n.safetensors": lambda path: write_tensors(path, {"x": np.ones(50_000)}, {}),
    "t.parquet": lambda path: records.write_table(
        path, pd.DataFrame({"x": np.random.default_rng(0).random(50_000)}), {}
    ),
    "t.csv": lambda path: records.write_csv(path, pd.DataFrame({"x": range(50_000)}), {}),
    "m.json": lambda path: records.write_json(path, {"x": [0] * 50_000}, {}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_finds_no_room_is_one_clear_error(tmp_path, name):
    path = tmp_path / name
    path.write_text("before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(UserError, match=rf"{name} cannot be written: .*; free some space and"):
            WRITERS[name](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_only_refusals_to_write_are_told_so(tmp_path):
    for error in (ValueError("a mistake"), OSError(2, "No such file"), UserError("told already")):
        with (
            pytest.raises(type(error), match=str(error.args[-1])),
            files.atomic_path(tmp_path / "x"),
        ):
            raise error
    with files.atomic_path(tmp_path / ("x" * 250)) as path:  # as long as a name can be
        path.write_text("")
    # what was to be read is not what cannot be written
    with pytest.raises(PermissionError), files.atomic_path(tmp_path / "x"):
        raise PermissionError(13, "Permission denied", "/an/input")


@pytest.mark.parametrize("name", ["a.safetensors", "a.parquet"])
def test_every_flipped_byte_of_the_content_is_noticed(tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        records.write_table(path, pd.DataFrame({"x": np.arange(200.0)}), {})
        read = records.read_table
    else:
        write_tensors(path, {"x": torch.arange(200.0)}, {})
        read = read_tensors
    whole = path.read_bytes()
    # the content: safetensors ends with it, a parquet page stands near the start
    start = 60 if name.endswith("parquet") else len(whole) - 790
    for position in range(start, start + 700, 97):
        broken = bytearray(whole)
        broken[position] ^= 0xFF
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"a\.\w+ is damaged .*give the right file"):
            read(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        read(path)


@pytest.mark.parametrize("other", [b"abcdeg", b'ab"def', b"ab\xffdef"])
def test_a_changed_provenance_is_damage(tmp_path, other):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.ones(1)}, {"data": "abcdef"})
    assert read_tensors(path)[1] == {"data": "abcdef"}
    whole = path.read_bytes()
    assert whole.count(b"abcdef") == 1
    path.write_bytes(whole.replace(b"abcdef", other))
    with pytest.raises(UserError, match="is damaged or not what it should be"):
        read_tensors(path)


def test_no_flipped_bit_of_a_parquet_file_is_believed(tmp_path):
    """Wherever it is: the table and its provenance are read as they were, or not at all."""
    path = tmp_path / "t.parquet"
    table = pd.DataFrame({"name": ["a", "b"], "value": [0.5, 2.0]})
    records.write_table(path, table, {"data": "abcdef", "rows": 2})
    whole = path.read_bytes()
    noticed = 0
    for position in range(0, len(whole), 11):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 2]) + whole[position + 1 :])
        try:
            found, provenance = records.read_table(path)
        except UserError:
            noticed += 1
            continue
        assert provenance == {"data": "abcdef", "rows": 2}
        pd.testing.assert_frame_equal(found, table, check_dtype=False)
    assert noticed > 50


def test_a_folder_in_a_files_place_is_told(tmp_path):
    path = tmp_path / "summary.json"
    path.mkdir()
    with pytest.raises(UserError, match=r"summary.json is a folder; name a file"):
        records.read_json(path)
    assert path.is_dir()


def test_what_cannot_be_read_for_the_moment_is_not_set_aside(tmp_path, monkeypatch):
    monkeypatch.setenv(files.RESULTS_VARIABLE, str(tmp_path))
    path = tmp_path / "t.parquet"
    path.touch()
    monkeypatch.setattr("pyarrow.parquet.read_table", _raising(OSError(5, "Input/output error")))
    with pytest.raises(UserError, match=r"t.parquet cannot be read: Input/output error"):
        records.read_table(path)
    monkeypatch.setattr("pyarrow.parquet.read_table", _raising(MemoryError("mmap")))
    with pytest.raises(MemoryError):
        records.read_table(path)
    monkeypatch.setattr("safetensors.safe_open", _raising(OSError("locked (os error 13)")))
    with pytest.raises(UserError, match=r"t.parquet cannot be read: Permission denied"):
        read_tensors(path)
    monkeypatch.setattr("pathlib.Path.read_text", _raising(OSError(5, "Input/output error")))
    with pytest.raises(UserError, match=r"t.parquet cannot be read: Input/output error"):
        records.read_json(path)
    monkeypatch.setattr("hashlib.file_digest", _raising(OSError(5, "Input/output error")))
    with pytest.raises(UserError, match=r"t.parquet cannot be read: Input/output error"):
        files.file_sha256(path)
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
    # nor is what another job set aside meanwhile advised to be deleted
    path.unlink()
    assert "delete it, if it is there, and run" in str(files.damaged(path, "a test"))


def _raising(error):
    def call(*_, **__):
        raise error

    return call


def test_a_missing_file_is_one_clear_error(tmp_path):
    for read in (read_tensors, records.read_table, records.read_json):
        with pytest.raises(UserError, match="nowhere does not exist"):
            read(tmp_path / "nowhere")


def test_broken_json_is_named(tmp_path):
    (tmp_path / "m.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"m\.json is damaged"):
        records.read_json(tmp_path / "m.json")


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    records.write_json(path, {"a": 1}, {})
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        records.write_json(path, {"a": object()}, {})

    def fail():
        with files.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert records.read_json(path)["a"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_path_that_is_no_place_for_a_file_is_named(tmp_path):
    pipe, file = tmp_path / "pipe.json", tmp_path / "file"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=r"pipe\.json is neither a file nor a folder"):
        records.write_json(pipe, {}, {})
    assert pipe.is_fifo()
    file.write_text("")
    with pytest.raises(FileExistsError, match="file"):
        records.write_json(file / "a.json", {}, {})


def test_a_file_does_not_replace_a_folder_nor_a_folder_a_file(tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    with pytest.raises(
        UserError, match=r"folder cannot be written: Is a directory; .* or choose another"
    ):
        records.write_json(folder, {}, {})
    file.write_text("kept")

    def make_folder():
        with files.atomic_path(file) as temporary:
            temporary.mkdir()

    with pytest.raises(
        UserError, match=r"file cannot be written: Not a directory; .* or choose another"
    ):
        make_folder()
    assert file.read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_replaces_a_folder(tmp_path):
    target = tmp_path / "model"
    for content in ("one", "two"):
        with files.atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [p.name for p in target.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_provenance_states_settings_code_versions_and_cost():
    args = argparse.Namespace(seed=3, task="t", _chapter="spectrum", _verb="decays", _run=fit)
    args._started = time.monotonic()
    provenance = record(args, dtype="float32")
    assert provenance["command"] == "spectrum decays"  # as it was called, not as its function is
    assert provenance["settings"] == {"seed": 3, "task": "t"}
    assert provenance["dtype"] == "float32"
    assert len(provenance["code"]) == 16
    assert provenance["versions"]["torch"] == torch.__version__
    assert provenance["peak_memory_bytes"] > 10 * 2**20
    assert provenance["wall_seconds"] >= 0
    json.dumps(provenance)


def test_colleagues_may_read_what_was_written(tmp_path):
    """Every format, the one whose writer makes private files included."""
    before = os.umask(0o022)
    try:
        write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(1)}, {})
        records.write_json(tmp_path / "a.json", {}, {})
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes == {"a.safetensors": 0o644, "a.json": 0o644}


def stretched(tensors, rows=2):
    """Yield tensors in stretches of rows."""
    for name, tensor in tensors.items():
        for part in stretches(tensor.shape, rows * max(1, tensor[0].numel())):
            yield name, tensor[part]


def layout(tensors):
    return {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}


@pytest.fixture
def streamed(tmp_path):
    """Write tensors in stretches; return the file and the tensors."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "b": torch.randn(7, 3, 2, generator=generator),
        "a": torch.randn(5, generator=generator).to(torch.bfloat16),
        "c": torch.randn(4, 4, generator=generator).double(),
    }
    path = tmp_path / "s.safetensors"
    stream_tensors(path, layout(tensors), stretched(tensors), {"made": "here"})
    return path, tensors


def test_what_is_written_in_stretches_is_read_like_any_other_file(streamed):
    path, tensors = streamed
    read, provenance = read_tensors(path)  # the checksum is verified
    assert provenance == {"made": "here"}
    assert set(read) == set(tensors)
    assert all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in tensors.items())


@pytest.mark.parametrize("numbers", [1, 4, 10**6])
def test_stored_tensors_are_read_by_rows(streamed, numbers):
    path, tensors = streamed
    stored, provenance = stored_tensors(path)
    assert provenance == {"made": "here"}
    for name, tensor in tensors.items():
        assert (stored[name].shape, stored[name].dtype) == (tuple(tensor.shape), tensor.dtype)
        parts = [stored[name][rows] for rows in stretches(tensor.shape, numbers)]
        assert torch.equal(torch.cat(parts), tensor)
        assert torch.equal(stored[name][...], tensor)


def test_a_single_number_is_one_stretch(tmp_path):
    write_tensors(tmp_path / "n", {"x": torch.tensor(2.5)}, {})
    stored = stored_tensors(tmp_path / "n")[0]["x"]
    assert [float(stored[rows]) for rows in stretches(stored.shape, 10)] == [2.5]


def test_damage_of_a_file_that_is_read_in_stretches_is_named(streamed):
    path, _ = streamed
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"s\.safetensors is damaged .* does not match its checksum"
    ):
        stored_tensors(path)
    path.write_bytes(content[:40])
    with pytest.raises(UserError, match=r"s\.safetensors is damaged"):
        stored_tensors(path)
    with pytest.raises(UserError, match="does not exist"):
        stored_tensors(path.with_name("none"))


def test_stretches_that_do_not_fit_leave_no_file(tmp_path):
    tensors = {"x": torch.ones(4, 2), "y": torch.ones(3)}
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="stretches are missing"):
        stream_tensors(path, layout(tensors), stretched({"x": tensors["x"]}), {})
    with pytest.raises(ValueError, match="stretches of x are not those"):
        stream_tensors(path, layout(tensors), [("x", torch.ones(5, 2))], {})
    with pytest.raises(ValueError, match="stretches of x are not those"):
        stream_tensors(path, layout(tensors), [("x", tensors["x"].double())], {})
    assert list(tmp_path.iterdir()) == []
