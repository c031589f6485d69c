"""Reading the tables that people bring: manifests, labels, splits; CSV, TSV or Parquet, every value as text."""

from __future__ import annotations

import codecs
import csv
import json
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from pipeline.errors import ManifestError
from pipeline.storage.parquet import read_parquet

_SUFFIXES = (".csv", ".tsv", ".parquet")
MAX_FIELD_CHARS = 1 << 20
MAX_JSON_BYTES = 1 << 29
T = TypeVar("T")

Row = dict[str, object]
"""Column -> text, None, or a list of texts (Parquet only)."""


def is_manifest(name: str) -> bool:
    """Whether a `videos` entry names a table rather than videos."""
    return name.lower().endswith(_SUFFIXES) and not any(sign in name for sign in "*?[")


def read_manifest(file: Path) -> list[Row]:
    """Read a table of any of the three kinds.

    Parameters
    ----------
    file : Path
        CSV (commas, or what else its header line holds: semicolons, tabs) and TSV with a header line, in UTF-8, or in
        UTF-16 with its byte order mark.

    Returns
    -------
    list of dict
        Empty fields are None; everything else is text, so that a label `01` stays one.

    Raises
    ------
    ManifestError
        If it cannot be read, has no or repeated column names, or a row has more fields than the header.
    """
    try:
        return _read_parquet(file) if file.suffix.lower() == ".parquet" else _read_text(file)
    except (OSError, UnicodeError, csv.Error, pa.ArrowException) as error:
        reason = "bytes that are not UTF-8" if isinstance(error, UnicodeError) else str(error).split("\n")[0]
        raise ManifestError(
            f"{file}: expected a UTF-8 table with a header line (.csv, .tsv) or a .parquet file, found: {reason}"
        ) from None


def _read_text(file: Path) -> list[Row]:
    csv.field_size_limit(MAX_FIELD_CHARS)
    with open(file, newline="", encoding=_encoding(file)) as lines:
        header = lines.readline()
        lines.seek(0)
        reader = csv.reader(lines, delimiter=_delimiter(header, file), strict=True)
        names = [name.strip() for name in next(reader, [])]
        if not any(names) or len(set(names)) < len(names):
            raise ManifestError(f"{file}: expected a header line of distinct column names, found {names or 'nothing'}")
        rows: list[Row] = []
        for values in reader:
            if not values:
                continue
            if len(values) > len(names):
                raise ManifestError(
                    f"{file}: expected {len(names)} fields in line {reader.line_num}, found {len(values)}; "
                    "quote values that hold the separator"
                )
            texts = [value.strip() or None for value in values]
            rows.append(dict(zip(names, texts + [None] * (len(names) - len(texts)), strict=True)))
        return rows


def _encoding(file: Path) -> str:
    with open(file, "rb") as start:
        return "utf-16" if start.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _delimiter(header: str, file: Path) -> str:
    """Return what separates columns: a comma, unless a header line without any holds semicolons or tabs."""
    if file.suffix.lower() == ".tsv":
        return "\t"
    return next((sign for sign in ",;\t" if sign in header), ",")


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file that hold anything, without the blanks around them.

    Raises
    ------
    ManifestError
        If it cannot be read, or is no text.
    """
    try:
        with open(file, encoding=_encoding(file)) as lines:
            return [line.strip() for line in lines if line.strip()]
    except (OSError, UnicodeError) as error:
        reason = "bytes that are not UTF-8" if isinstance(error, UnicodeError) else (error.strerror or "").lower()
        raise ManifestError(f"{file}: expected a text file in UTF-8, found: {reason}") from None


def read_json(file: Path, kind: type[T]) -> T:
    """Return what a JSON file holds.

    Raises
    ------
    ManifestError
        If it cannot be read, is no JSON, or holds another kind of thing than asked for.
    """
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ManifestError(f"{file}: expected at most {MAX_JSON_BYTES} bytes of JSON, found {file.stat().st_size}")
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{file}: expected JSON, found: {str(error)[:100]}") from None
    if not isinstance(content, kind):
        raise ManifestError(f"{file}: expected a JSON {kind.__name__}, found {type(content).__name__}")
    return content


def _read_parquet(file: Path) -> list[Row]:
    table = read_parquet(file)
    return [{name: _as_text(value) for name, value in row.items()} for row in table.to_pylist()]


def _as_text(value: object) -> object:
    if value is None or value == "":
        return None
    if isinstance(value, list):
        return [str(item) for item in value if item is not None]
    return str(value)
