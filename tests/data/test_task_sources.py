"""Sources of tasks, by the command itself: formats, damage, wrong columns, what is passed over."""

import gzip
import hashlib
import io
import json
import tarfile

import pandas as pd
import pytest
import yaml

from ntktune.__main__ import main
from ntktune.data.sources import file_rows
from ntktune.errors import UserError
from ntktune.store.records import read_table

ROWS = [
    {"text": 'good, "so" good', "score": 3.5},
    {"text": "bad", "score": -2},
    {"text": "naïve\u2028line", "score": 0.25},
]
SCORES = {"title": "T", "kind": "regression", "columns": {"label": "score"}}
TEST = [{"text": "unseen", "score": 1}]


def _csv(rows):
    quoted = ("{},{}".format('"' + r["text"].replace('"', '""') + '"', r["score"]) for r in rows)
    return "text,score\r\n" + "".join(f"{line}\r\n" for line in quoted)


def _tsv(rows):
    return "text\tscore\n" + "".join(f"{r['text']}\t{r['score']}\n" for r in rows)


def _jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows) + "\n"


WRITERS = {"csv": _csv, "tsv": _tsv, "jsonl": _jsonl}


def _write(path, rows):
    form = path.suffix[1:]
    if form == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:  # with a byte order mark, as spreadsheets write it
        path.write_bytes(b"\xef\xbb\xbf" + WRITERS[form](rows).encode())
    return str(path)


def _fetch(out, definition, *flags):
    command = ["data", "fetch-task", "--name", "t", "--definition", json.dumps(definition)]
    return main([*command, *flags, "--out", str(out)])


@pytest.fixture
def out(tmp_path):
    return tmp_path / "data" / "t" / "table.parquet"


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_table(form, tmp_path, out, capsys):
    files = {s: _write(tmp_path / f"{s}.{form}", r) for s, r in (("train", ROWS), ("test", TEST))}
    assert _fetch(out, SCORES | {"sources": [{"files": files}]}) == 0
    table, provenance = read_table(out)
    assert table["text_a"].tolist() == [row["text"] for row in ROWS + TEST]
    assert table["label"].tolist() == [3.5, -2, 0.25, 1]
    assert table["split"].tolist() == ["train"] * 3 + ["test"]
    assert table["id"].tolist() == ["train-0", "train-1", "train-2", "test-0"]
    assert list(table.columns) == ["id", "text_a", "text_b", "label", "label_noise", "split"]
    rows = zip(table["split"], table["text_a"], table["label"], strict=True)
    lines = [json.dumps([split, text, None, repr(float(y)), "nan"]) for split, text, y in rows]
    content = "".join(f"{line}\n" for line in lines).encode()
    assert provenance["data_sha256"] == hashlib.sha256(content).hexdigest()
    assert provenance["origin"]["train"] == [files["train"]]
    assert provenance["task"]["metric"] == "pearson"
    assert capsys.readouterr().err == "t (files): train 3 rows of 3; test 1 rows of 1\n"


def test_files_of_a_split_are_joined_and_the_format_can_be_stated(tmp_path, out):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text(_tsv(ROWS[:1]))
    second.write_text(_tsv(ROWS[1:2] + TEST))
    files = {"train": [str(first)], "test": [str(second)], "format": "tsv"}
    assert _fetch(out, SCORES | {"sources": [{"files": files}]}) == 0
    assert read_table(out)[0]["text_a"].tolist() == ['good, "so" good', "bad", "unseen"]


def test_one_file_is_divided_by_its_documents(tmp_path, out):
    rows = [{"text": f"text {i}", "score": i, "doc": i // 4} for i in range(200)]
    path = _write(tmp_path / "all.jsonl", rows)
    task = SCORES | {"columns": {"label": "score", "group": "doc", "id": "text"}}
    assert _fetch(out, task | {"sources": [{"files": {"train": path}}]}) == 0
    table, _ = read_table(out)
    documents = table["label"] // 4
    assert set(documents[table["split"] == "test"]).isdisjoint(documents[table["split"] == "train"])
    assert (table["split"] == "test").any()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,score\na,1\nb\n", r"a.csv, line 3: 1 fields, but the header has 2"),
        ("a.csv", b'text,score\nb,1\n"a,1\n', r"a.csv, line 3: not valid csv \(unexpected end"),
        ("a.tsv", b"text\tscore\na\t1\tx\n", r"a.tsv, line 2: 3 fields, .*use csv for such texts"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"a.jsonl, line 1: not valid JSON .*surrogate"),
        ("a.jsonl", b"[" * 100_000, r"a.jsonl, line 1: not valid JSON .*recursion"),
        ("a.csv", b"text,score\n", r"a.csv holds no rows"),
        ("a.csv", b"", r"a.csv holds no rows"),
        ("a.csv", b"text,score\n\xff,1\n", r"a.csv, line 2: the byte 0xff is not utf-8 .*iconv"),
        (
            "a.csv",
            b"\xff\xfea\x00\n\x00\x00\xd8",
            r"a.csv, line 2: the byte 0x00 is not utf-16.* text",
        ),
        (
            "a.csv.gz",
            b"text,score\na,1\n",
            r"a.csv.gz is damaged or not .* csv: Not a gzipped file",
        ),
        ("a.json", b'[{"text": 1}, 2]', r"a.json, element 2: not a JSON object: 2"),
        ("a.json", b'[{"text": 1}, ', r"a.json: not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b"[1]\n", r"a.jsonl, line 1: not a JSON object: \[1\]"),
        ("a.parquet", b"PAR1 no", r"a.parquet is damaged or not in the format parquet"),
        (
            "a.xlsx",
            b"x",
            r"the format of .*a.xlsx cannot be told .* save it as one of .csv, .tsv, ",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        file_rows(tmp_path / name, None)


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path, out, capsys):
    path = _write(tmp_path / "a.csv", ROWS)
    task = SCORES | {"columns": {"text_a": "sentence", "label": "score"}}
    assert _fetch(out, task | {"sources": [{"files": {"train": path}}]}) == 1
    assert capsys.readouterr().err == (
        f"ntktune data fetch-task: error: t, source 1 (files): {path} has no column "
        "'sentence' (text_a); its columns are text, score; correct `columns` in the task's file\n"
    )
    assert not out.exists()


def test_the_first_source_that_can_be_had_is_used_and_the_others_told(tmp_path, out, capsys):
    path = _write(tmp_path / "a.parquet", [{"text": f"t{i}", "score": i} for i in range(50)])
    sources = [{"files": {"train": "nowhere.csv"}}, _package("0" * 64), {"files": {"train": path}}]
    assert _fetch(out, SCORES | {"sources": sources}) == 0
    origin = read_table(out)[1]["origin"]
    assert origin["source"] == "files"
    assert origin["passed_over"] == [
        {"source": "files", "reason": "train file nowhere.csv does not exist"},
        {
            "source": "package",
            "reason": "the package rated 1.0 is needed, but no --package-file was given",
        },
    ]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "t: source files passed over: train file nowhere.csv does not exist"
    assert len(said) == 3


def test_when_no_source_can_be_had_each_is_listed_with_its_reason(out, capsys):
    sources = [{"files": {"train": "nowhere.csv"}}, _package("0" * 64)]
    assert _fetch(out, SCORES | {"sources": sources}, "--package-file", "no.tar.gz") == 1
    assert capsys.readouterr().err == (
        "ntktune data fetch-task: error: t: none of its sources is available here: "
        "1. files: train file nowhere.csv does not exist; "
        "2. package: the package rated 1.0 is needed, but no.tar.gz does not exist\n"
    )


def test_a_wrong_source_is_not_passed_over(tmp_path, out, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text("nonsense")
    generated = {"generated": {"rows": {"train": 9, "test": 3}}}
    assert _fetch(out, SCORES | {"sources": [{"files": {"train": str(path)}}, generated]}) == 1
    assert "t, source 1 (files): " in capsys.readouterr().err


def test_a_definition_may_be_the_tasks_file(tmp_path, out, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "a.csv", [{"text": f"t{i}", "score": i} for i in range(30)])
    task = SCORES | {"sources": [{"files": {"train": "a.csv"}}]}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(task))
    command = ["data", "fetch-task", "--name", "t", "--out", str(out), "--definition"]
    assert main([*command, "t.yaml"]) == 0
    provenance = read_table(out)[1]
    assert provenance["settings"]["definition"]["columns"]["label"] == "score"
    assert _fetch(out, task) == 0
    assert read_table(out)[1]["settings"] == provenance["settings"]
    for content, message in (
        (None, "t.yaml does not exist"),
        ("[]", "t.yaml must hold keys and values"),
        (
            "title: T\nkind: regression\nsources: [a.csv]",
            "t: sources.0 is 'a.csv': must be keys and values",
        ),
        ("title: T\nkind: regression\nsources: [a]\ncolumns: [a]", "t: columns is ['a']: must be"),
    ):
        (tmp_path / "t.yaml").unlink()
        if content:
            (tmp_path / "t.yaml").write_text(content)
        else:
            assert main([*command, "t.yaml"]) == 1
            (tmp_path / "t.yaml").touch()
            continue
        assert main([*command, "t.yaml"]) == 1
        assert message in capsys.readouterr().err


def test_a_definition_that_is_no_json_is_told(out, capsys):
    for text in ("{", "[]"):
        command = ["data", "fetch-task", "--name", "t", "--definition", text, "--out", str(out)]
        assert main(command) == 1
        assert "--definition" in capsys.readouterr().err


def _package(sha256, **changes):
    package = {"name": "rated", "version": "1.0", "sha256": sha256, "sdist": True}
    package |= {"reader": "scored-sentences", "member": "shop"} | changes
    return {"package": package}


@pytest.fixture
def archive(tmp_path):
    """A small source archive of the same structure as the real one."""
    lines = [
        (f"{i // 3}_{i % 3}", (-2 if i % 2 else 1.5) + (i % 5) / 10, f'item {i} is "fine" &amp; ok')
        for i in range(120)
    ]
    truth = "".join(f"{name}\t{mean:.6f}\t{text}\r\n" for name, mean, text in lines)
    ratings = "".join(f"{n}\t{m:.6f}\t0.5\t[{m - 0.5}, {m + 0.5}]\r\n" for n, m, _ in lines)
    inner, path = io.BytesIO(), tmp_path / "rated-1.0.tar.gz"
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        for name, text in (("GroundTruth", truth), ("anonDataRatings", "\ufeff" + ratings)):
            _add(tar, f"set/shop_{name}.txt", text.encode())
    with tarfile.open(path, "w:gz") as tar:
        _add(tar, "rated-1.0/PKG-INFO", b"x")
        _add(tar, "rated-1.0/additional_resources/set.tar.gz", inner.getvalue())
    return path


def _add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def test_scored_sentences_are_read_out_of_a_source_archive(archive, out, capsys):
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    task = SCORES | {"score_range": [-4, 4], "sources": [_package(sha256)]}
    assert _fetch(out, task, "--package-file", str(archive)) == 0
    table, provenance = read_table(out)
    assert len(table) == 120
    assert table["label_noise"].to_numpy() == pytest.approx(0.5)  # sd sqrt(1/2) over root 2
    assert table["text_a"][0].endswith('is "fine" &amp; ok')
    documents = table["id"].str.split("_").str[0]
    assert table["split"].groupby(documents).nunique().eq(1).all()
    assert provenance["origin"]["sha256"] == sha256
    assert provenance["origin"]["mismatched_ratings"] == 0
    # the polarity of the same sentences is divided in the same way
    polar = {"title": "P", "kind": "classification", "classes": ["bad", "good"]}
    polar |= {"polarity_band": [-1.7, 1.7], "score_range": [-4, 4], "sources": [_package(sha256)]}
    assert _fetch(out, polar, "--package-file", str(archive)) == 0
    classes, provenance = read_table(out)
    side = dict(zip(table["id"], table["split"], strict=True))
    assert all(side[row.id] == row.split for row in classes.itertuples())
    counts = provenance["counts"]
    assert counts["train"]["neutral"] + counts["test"]["neutral"] == 120 - len(classes) > 0
    assert set(classes["label"]) == {0, 1}


def test_another_archive_than_the_pinned_one_is_refused(archive, out, capsys):
    task = SCORES | {"sources": [_package("1" * 64)]}
    assert _fetch(out, task, "--package-file", str(archive)) == 1
    assert f"expected {'1' * 64}" in capsys.readouterr().err


def test_an_archive_without_the_data_set_is_an_error(archive, tmp_path, out, capsys):
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    task = SCORES | {"sources": [_package(sha256, member="films")]}
    assert _fetch(out, task, "--package-file", str(archive)) == 1
    assert "does not contain films_GroundTruth.txt, films_anonData" in capsys.readouterr().err
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(gzip.compress(gzip.decompress(archive.read_bytes())[:700]))
    sha256 = hashlib.sha256(cut.read_bytes()).hexdigest()
    assert _fetch(out, SCORES | {"sources": [_package(sha256)]}, "--package-file", str(cut)) == 1
    assert "cut.tar.gz" in capsys.readouterr().err


def test_generated_tasks_have_the_rows_they_state(out):
    source = {"generated": {"rows": {"train": 30, "test": 10}, "noise": 0.25, "words": 3}}
    task = {"title": "T", "kind": "regression", "score_range": [-4, 4], "sources": [source]}
    assert _fetch(out, task | {"train_rows": 30, "test_rows": 10}) == 0
    table, provenance = read_table(out)
    assert (table["label_noise"] == 0.25).all()
    assert provenance["counts"]["train"]["kept"] == 30
    first = provenance["data_sha256"]
    assert _fetch(out, task) == 0
    assert read_table(out)[1]["data_sha256"] == first
