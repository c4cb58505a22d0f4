"""What messages advise: never to delete a user's own file, and where a missing thing was sought."""

import ast
import re
from pathlib import Path

import pandas as pd
import pytest

import ntktune
from ntktune.__main__ import main
from ntktune.data.study import resolved_study
from ntktune.errors import UserError
from ntktune.store import files, records, tensors

OUTS = ["--out-eigenvalues", "a", "--out-fits", "b", "--out-summary", "c"]
PACKAGE = Path(ntktune.__file__).parent
READERS = (
    records.read_json,
    records.read_table,
    tensors.read_tensors,
    tensors.read_arrays,
    tensors.stored_tensors,
    tensors.content_sha256,
)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("content", [b"", b"1,0.5\n0.5,1\n", b"{", bytes(range(256))])
def test_a_file_that_no_rule_made_is_not_to_go(tmp_path, monkeypatch, read, content):
    mine = tmp_path / "mine.csv"
    mine.write_bytes(content)
    for results in (None, tmp_path / "results"):  # by hand, and within a running study
        if results:
            monkeypatch.setenv(files.RESULTS_VARIABLE, str(results))
        with pytest.raises(UserError, match=r"mine\.csv .*; give the right file") as told:
            read(mine)
        assert not re.search("delete|remove", str(told.value))
        assert mine.read_bytes() == content


def test_a_csv_for_a_kernel_is_told_what_is_read(tmp_path, capsys):
    mine = tmp_path / "my.csv"
    pd.DataFrame([[1.0, 0.5], [0.5, 1.0]]).to_csv(mine)
    assert main(["spectrum", "fit", "--gram", str(mine), *OUTS]) == 1
    told = capsys.readouterr().err
    assert f"{mine} is damaged or not what it should be (read as a safetensors file: " in told
    assert "delete" not in told


def test_only_what_a_rule_made_is_ever_advised_to_be_deleted():
    """That is known in one place, which looks whether the file is among a study's results."""
    advice = re.compile(r"\b(delete|remove|erase) (it|them|both|that|this|the )|\brm ")
    found = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        raised = [node for node in ast.walk(tree) if isinstance(node, (ast.Raise, ast.Return))]
        texts = (text for node in raised for text in ast.walk(node))
        found += [
            f"{path.stem}: {text.value}"
            for text in texts
            if isinstance(text, ast.Constant)
            and isinstance(text.value, str)
            and advice.search(text.value)
        ]
    assert found == ["files: ; delete it, if it is there, and "]


FILE = "nowhere/a.file"
COMMANDS = (
    ["finetune", "plan", "--config", FILE],
    ["spectrum", "fit", "--gram", FILE, *OUTS],
    ["theory", "stopping", "--gram", FILE, "--out", "x"],
    ["figures", "show", "--folder", "nowhere"],
    ["figures", "draw", "prediction", "--table1", FILE, "--summary", FILE, "--out", "a.png"],
    ["results", "check", "--folder", "nowhere"],
)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_a_command_tells_a_missing_folder(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    told = capsys.readouterr().err
    assert re.search(f"there is no folder nowhere.* in {tmp_path}|looked in {tmp_path}", told)
    assert told.count("\n") == 1


def test_a_missing_folder_is_told_with_where_it_was_sought(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for path, why in (
        ("nowhere/deep/a.json", f"there is no folder nowhere in {tmp_path}"),
        ("here/deep/a.json", f"there is no folder here/deep in {tmp_path}"),
        ("here/a.json", f"looked in {tmp_path}"),
        (tmp_path / "no/a.json", f"there is no folder {tmp_path / 'no'}"),
    ):
        for read in READERS:
            with pytest.raises(UserError, match=re.escape(f"{path} does not exist ({why}); ")):
                read(path)
    with pytest.raises(UserError, match=r"here/a\.json does not exist; make it first"):
        records.read_json(tmp_path / "here/a.json")
    with pytest.raises(UserError, match=r"nowhere does not exist \(looked in .*; correct the path"):
        records.check_model_files("nowhere", ["config.json"])


def test_tasks_that_are_sought_in_another_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = {"study": "s", "tasks": ["a"], "task_folders": ["config/tasks"]}
    study["model"] = {"source": {"random": {"model_type": "gpt2"}}, "name": "m"}
    with pytest.raises(UserError, match=f"looked in {tmp_path}.*where they are .--directory"):
        resolved_study(study)
