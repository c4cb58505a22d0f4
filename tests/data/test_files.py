"""Files as people have them: the same rows however they are written, else the line at fault."""

import bz2
import gzip
import io
import json
import lzma

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntktune.data.files import file_rows
from ntktune.data.sources import own_names
from ntktune.errors import UserError

COLUMNS = {"text_a": "text", "label": "label"}
ROWS = [("naïve, “film”", "1.5"), ('they said "never"', "2"), ("null", "3"), ("a\nb", "-4")]
CSV = 'text,label\n"naïve, “film”",1.5\n"they said ""never""",2\nnull,3\n"a\nb",-4\n'
RECORDS = [{"text": text, "label": label} for text, label in ROWS]


def _parquet(frame):
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV.encode()),
        ("A.CSV", CSV.encode("utf-8-sig")),
        ("a.csv", CSV.encode("utf-16")),
        ("a.csv", CSV.replace("\n", "\r\n").replace("a\r\n", "a\n").encode()),
        ("a.csv", CSV.replace('",', '";').replace("text,", "text;").replace("l,3", "l;3").encode()),
        ("a.csv", CSV.replace('",', '"\t').replace("t,l", "t\tl").replace("l,3", "l\t3").encode()),
        ("a.csv", CSV.replace('""', '\\"').encode()),
        ("a.csv", CSV.replace("text,label", " text , label").encode()),
        # as spreadsheets pad a table
        ("a.csv", ("\n" + CSV.replace("label\n", "label,,\n").replace("3\n", "3,,\n")).encode()),
        ("a.csv", CSV.replace("label\n", "label,note,note\n").replace("3\n", "3,x,\n")
         .replace("5\n", "5,,\n").replace("2\n", "2,,\n").replace("-4\n", "-4,,\n").encode()),
        # without the time, which would give each of pytest's processes its own name of the test
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("a.Csv.BZ2", bz2.compress(CSV.encode())),
        ("a.csv.xz", lzma.compress(CSV.encode())),
        ("a.json", json.dumps(RECORDS, indent=1).encode()),
        ("a.json", "".join(json.dumps(row) + "\n" for row in RECORDS).encode()),
        ("a.NDJSON.gz",
         gzip.compress("".join(json.dumps(r) + "\n" for r in RECORDS).encode(), mtime=0)),
        ("a.Parquet", _parquet(pd.DataFrame(RECORDS))),
        ("a.parquet.gz", gzip.compress(_parquet(pd.DataFrame(RECORDS)), mtime=0)),
    ],
)  # fmt: skip
def test_the_same_rows_however_they_are_written(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    rows = own_names(file_rows(tmp_path / name, None), COLUMNS, name)
    assert list(zip(rows["text_a"], rows["label"], strict=True)) == ROWS


def test_a_text_is_as_long_as_it_is(tmp_path):
    text = "a long chapter " * 12_000
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        (tmp_path / name).write_text(f"text{delimiter}label\n{text}{delimiter}3\n")
        assert file_rows(tmp_path / name, None)["text"].tolist() == [text]


def test_rows_of_nothing_but_commas_are_rows_without_text(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,,\na,1,,\n,,,\n,,,\n")
    assert file_rows(tmp_path / "a.csv", None)["text"].tolist() == ["a", "", ""]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['"a",1', '"he said "no" twice",2'], r"a.csv, line 3: not valid csv .* inside it twice"),
        (['"a\nb",1', '"he said \\"no", twice",2'], r"a.csv, line 4: not valid csv"),
        (['"a\nb",1', "a,b,2"], r"a.csv, line 4: 3 fields, but the header has 2; put a text "
         r"that holds ',' in double quotes$"),
        (["a"], r"a.csv, line 2: 1 fields, but the header has 2$"),
    ],
)  # fmt: skip
def test_the_line_at_fault_is_told(tmp_path, lines, message):
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *lines]))
    with pytest.raises(UserError, match=message):
        file_rows(tmp_path / "a.csv", None)


def test_a_column_that_stands_twice_matters_only_where_a_task_names_it(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,label\na,1,2\n")
    frame = file_rows(tmp_path / "a.csv", None)
    with pytest.raises(
        UserError, match=r"'Text' \(text_a; did you mean 'text'\?\); its columns are text"
    ):
        own_names(frame, {"text_a": "Text"}, "a.csv")
    assert own_names(frame, {"text_a": "text"}, "a.csv")["text_a"].tolist() == ["a"]
    with pytest.raises(UserError, match=r"a.csv: the column 'label' appears twice"):
        own_names(frame, COLUMNS, "a.csv")


def _read(tmp_path, texts):
    pq.write_table(pa.table({"text": texts, "label": [1.0, 2.0]}), tmp_path / "a.parquet")
    return own_names(file_rows(tmp_path / "a.parquet", None), COLUMNS, "a.parquet")


def test_texts_that_parquet_holds_as_bytes_are_texts(tmp_path):
    rows = _read(tmp_path, pa.array(["café".encode(), None], pa.binary()))
    assert rows["text_a"].tolist() == ["café", None]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            pa.array([b"a", b"\xff"], pa.binary()),
            r"a.parquet, row 2: the column 'text' .*xff.*utf-8",
        ),
        ([["a"], ["b"]], r"a.parquet, row 1: the column 'text' holds .*no text \(a ndarray\)"),
        (
            [None, {"a": "b"}],
            r"a.parquet, row 2: the column 'text' holds {'a': 'b'}, which is no text",
        ),
    ],
)
def test_what_is_no_text_is_told_with_column_and_row(tmp_path, texts, message):
    with pytest.raises(UserError, match=message):
        _read(tmp_path, texts)
