"""Files of rows (csv, tsv, json, parquet), as people have them: the one reader of each format.

Rows from the hub and rows from a file of the user's own come through here, so the same
file gives the same rows.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from ntktune.errors import UserError

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
COMPRESSED: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _open_bytes(path: Path) -> BinaryIO:
    """Open a file, compressed or not, for its content."""
    return COMPRESSED.get(path.suffix.lower(), lambda path: open(path, "rb"))(path)


def _open_text(path: Path) -> io.TextIOWrapper:
    """Open a file as text: UTF-8, or UTF-16 if it begins with that encoding's mark."""
    with _open_bytes(path) as file:
        encoding = "utf-16" if file.read(2) in UTF_16 else "utf-8-sig"
    return io.TextIOWrapper(_open_bytes(path), encoding=encoding, newline="")


def _not_utf8(path: Path, error: UnicodeDecodeError) -> UserError:
    """Return the error for text in another encoding, with the line where it shows."""
    where = str(path)
    if error.encoding.startswith("utf-8"):
        with _open_bytes(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as first:
                    where, error = f"{path}, line {number}", first
                    break
    return UserError(
        f"{where}: the byte 0x{error.object[error.start]:02x} is not {error.encoding} text; save "
        "the file as UTF-8, or convert it, for example from a Windows program: "
        f"iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8-{path.name}"
    )


def _with_doubled_quotes(lines: Iterator[str]) -> Iterator[str]:
    r"""Yield lines with \" as "", which is how csv writes a quote inside a quoted text."""
    return (line.replace('\\"', '""') for line in lines)


def _delimited(path: Path, delimiter: str | None, quoting: int) -> pd.DataFrame:
    try:
        return _delimited_rows(path, delimiter, quoting)
    except UserError:
        # Spark and others escape a quote by a backslash. The file is read that way only if it is
        # not valid csv otherwise, and then has the right number of fields in every line.
        try:
            return _delimited_rows(path, delimiter, quoting, _with_doubled_quotes)
        except UserError:
            pass
        raise


def _delimited_rows(
    path: Path,
    delimiter: str | None,
    quoting: int,
    changed: Callable[[Iterator[str]], Iterator[str]] = iter,
) -> pd.DataFrame:
    csv.field_size_limit(sys.maxsize)  # texts are as long as they are
    rows: list[list[str]] = []
    with _open_text(path) as file:
        if delimiter is None:  # spreadsheets write ; where the comma is the decimal point
            first = next((line for line in file if line.strip(",;\t\r\n ")), "")
            delimiter = next((d for d in ",;\t" if d in first), ",")
            file.seek(0)
        reader = csv.reader(changed(file), delimiter=delimiter, quoting=quoting, strict=True)
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1  # a row with line breaks in its texts ends further down
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                raise UserError(
                    f"{path}, line {line}: not valid csv ({error}); put a text that has quotes in "
                    'quotes, and write each quote inside it twice ("")'
                ) from None
            if not any(row) and (header is None or not row):
                continue
            if header is None:
                header = [name.strip() for name in row]
                # spreadsheets pad lines with empty cells
                while header and not header[-1]:
                    header.pop()
            else:
                width = len(header)
                if any(row[width:]) or (len(row) < width and any(row)):
                    hint = ""
                    if quoting == csv.QUOTE_NONE:
                        hint = "; quotes have no meaning in tsv: use csv for such texts"
                    elif len(row) > width:
                        hint = f"; put a text that holds {delimiter!r} in double quotes"
                    raise UserError(
                        f"{path}, line {line}: {len(row)} fields, but the header has {width}" + hint
                    )
                rows.append((row + [""] * width)[:width])
    return pd.DataFrame(rows, columns=header or [], dtype=object)


def _json_object(text: str, where: str) -> dict:
    row = _json_value(text, where)
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object: {text.strip()[:60]}")
    return row


def _json_value(text: str, where: str) -> object:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error})") from None
    return value


def _json_lines(path: Path) -> pd.DataFrame:
    with _open_text(path) as file:
        rows = [
            _json_object(line, f"{path}, line {number}")
            for number, line in enumerate(file, 1)
            if line.strip()
        ]
    return pd.DataFrame(rows, dtype=object)


def _json(path: Path) -> pd.DataFrame:
    """Return the rows of one array of objects, or of an object a line."""
    with _open_text(path) as file:
        text = file.read()
    if not text.lstrip().startswith("["):
        return _json_lines(path)
    rows = _json_value(text, str(path))
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, element {number}: not a JSON object: {str(row)[:60]}")
    return pd.DataFrame(rows, dtype=object)


def _parquet(path: Path) -> pd.DataFrame:
    if path.suffix.lower() not in COMPRESSED:
        return pd.read_parquet(path)
    with _open_bytes(path) as file:
        return pd.read_parquet(io.BytesIO(file.read()))


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "csv": lambda path: _delimited(path, None, csv.QUOTE_MINIMAL),
    "tsv": lambda path: _delimited_rows(path, "\t", csv.QUOTE_NONE),
    "jsonl": _json_lines,
    "json": _json,
    "parquet": _parquet,
}


def file_format(path: Path) -> str | None:
    """Return the format that a file's ending stands for, None if it is unknown."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in COMPRESSED:
        endings.pop()
    return FORMATS.get(endings[-1]) if endings else None


def file_rows(path: str | Path, form: str | None) -> pd.DataFrame:
    """Return the rows of one file, columns as they are called there.

    Parameters
    ----------
    path
        The file, perhaps compressed (.gz, .bz2, .xz). Endings may be in capitals.
    form
        csv (fields between commas, semicolons or tabs), tsv (quotes are text, as in GLUE's
        files), jsonl (an object a line), json (an array of objects, or as jsonl) or parquet;
        None takes it from the file's ending.

    Returns
    -------
    pandas.DataFrame
        Cells of csv and tsv are texts; an empty cell is an empty text.

    Raises
    ------
    UserError
        The format is unknown, or the file is damaged or empty; with the line where there is one.
    """
    path = Path(path)
    form = form or file_format(path)
    if form not in READERS:
        raise UserError(
            f"the format of {path} cannot be told from its ending {path.suffix!r}; save it as one "
            f"of {', '.join(FORMATS)}, compressed ({', '.join(COMPRESSED)}) or not"
        )
    try:
        frame = READERS[form](path)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    # of the readers of parquet and of compressed files
    except (ValueError, OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is damaged or not in the format {form}: {reason}") from None
    if frame.empty:
        raise UserError(f"{path} holds no rows")
    return frame
