"""The one reader of each format of rows (csv, tsv, json, parquet), for the hub and for users."""

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from ntktune.errors import UserError

COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _open_bytes(path: Path) -> BinaryIO:
    return COMPRESSED.get(path.suffix.lower(), open)(path, "rb")


def _open_text(path: Path) -> io.TextIOWrapper:
    """Open a file as text: UTF-8, or UTF-16 if it begins with that encoding's mark."""
    with _open_bytes(path) as file:
        encoding = "utf-16" if file.read(2) in UTF_16 else "utf-8-sig"
    return io.TextIOWrapper(_open_bytes(path), encoding=encoding, newline="")


def _not_utf8(path: Path, error: UnicodeDecodeError) -> UserError:
    """Return the error for text in another encoding, with the line where it shows."""
    with _open_bytes(path) as file:
        content = file.read()
    try:  # the reader's error has its place in a part of the file alone
        content.decode(error.encoding)
    except UnicodeDecodeError as first:
        error = first
    line = content[: error.start].decode(error.encoding).count("\n") + 1
    byte = f"0x{error.object[error.start]:02x}"
    return UserError(
        f"{path}, line {line}: the byte {byte} is not {error.encoding} text; save the file as "
        "UTF-8, or convert it, for example from a Windows program: "
        f"iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8-{path.name}"
    )


def _csv(path: Path) -> pd.DataFrame:
    try:
        return _delimited(path)
    except UserError:
        # Spark and others escape a quote by a backslash
        with contextlib.suppress(UserError):
            return _delimited(path, backslashes=True)
        raise


def _delimited(path: Path, *, tsv: bool = False, backslashes: bool = False) -> pd.DataFrame:
    csv.field_size_limit(sys.maxsize)  # texts are as long as they are
    rows: list[list[str]] = []
    header: list[str] = []
    with _open_text(path) as file:
        delimiter = "\t"
        if not tsv:  # spreadsheets write ; where the comma is the decimal point
            first = next((line for line in file if line.strip(",;\t\r\n ")), "")
            delimiter = next((d for d in ",;\t" if d in first), ",")
            file.seek(0)
        lines = (line.replace('\\"', '""') for line in file) if backslashes else file
        quoting = csv.QUOTE_NONE if tsv else csv.QUOTE_MINIMAL
        reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
        line = 1  # a row with line breaks in its texts ends further down
        try:
            for row in reader:
                start, line = line, reader.line_num + 1
                if not any(row) and not (header and row):
                    continue
                if not header:  # spreadsheets pad lines with empty cells
                    names = [name.strip() for name in row]
                    header = names[: max((i for i, name in enumerate(names, 1) if name), default=0)]
                    continue
                width = len(header)
                if any(row[width:]) or (len(row) < width and any(row)):
                    told = f"{path}, line {start}: {len(row)} fields, but the header has {width}"
                    if tsv:
                        told += "; quotes have no meaning in tsv: use csv for such texts"
                    elif len(row) > width:
                        told += f"; put a text that holds {delimiter!r} in double quotes"
                    raise UserError(told)
                rows.append((row + [""] * width)[:width])
        except csv.Error as error:
            raise UserError(
                f"{path}, line {line}: not valid csv ({error}); put a text that has quotes in "
                'quotes, and write each quote inside it twice ("")'
            ) from None
    return pd.DataFrame(rows, columns=header, dtype=object)


def _json_value(text: str, where: str) -> Any:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error})") from None
    return value


def _json(path: Path, *, array: bool) -> pd.DataFrame:
    """Return the rows of an object a line or, where it may be one, of an array of objects."""
    with _open_text(path) as file:
        text = file.read() if array else ""
        if text.lstrip().startswith("["):
            values = enumerate(_json_value(text, str(path)), 1)
            rows = [(f"{path}, element {number}", value) for number, value in values]
        else:
            file.seek(0)
            lines = [(f"{path}, line {i}", line) for i, line in enumerate(file, 1) if line.strip()]
            rows = [(where, _json_value(line, where)) for where, line in lines]
    for where, row in rows:
        if not isinstance(row, dict):
            shown = json.dumps(row, ensure_ascii=False)[:60]
            raise UserError(f"{where}: not a JSON object: {shown}")
    return pd.DataFrame([row for _, row in rows], dtype=object)


def _parquet(path: Path) -> pd.DataFrame:
    if path.suffix.lower() not in COMPRESSED:
        return pd.read_parquet(path)
    with _open_bytes(path) as file:
        return pd.read_parquet(io.BytesIO(file.read()))


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "csv": _csv,
    "tsv": lambda path: _delimited(path, tsv=True),
    "jsonl": lambda path: _json(path, array=False),
    "json": lambda path: _json(path, array=True),
    "parquet": _parquet,
}
FORMATS = {f".{form}": form for form in READERS} | {".ndjson": "jsonl"}


def file_rows(path: str | Path, form: str | None) -> pd.DataFrame:
    """Return the rows of one file, perhaps compressed, with the columns' names as they are there.

    ``form`` is csv (fields between commas, semicolons or tabs), tsv (quotes are text, as in GLUE's
    files), jsonl (an object a line), json (an array of objects, or as jsonl) or parquet; None takes
    it from the file's ending. Cells of csv and tsv are texts, perhaps empty. Raises UserError if
    the format is unknown or the file is damaged or empty, with the line if any.
    """
    path = Path(path)
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    form = form or FORMATS.get(plain.suffix.lower())
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
