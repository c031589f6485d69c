"""Reading the tables that people bring: manifests, labels, splits; CSV, TSV or Parquet, every value as text."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa

from pipeline.errors import ManifestError
from pipeline.storage.parquet import read_parquet

_SUFFIXES = (".csv", ".tsv", ".parquet")
MAX_FIELD_CHARS = 1 << 20

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
        CSV and TSV in UTF-8 with a header line.

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
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        reason = "bytes that are not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error).split("\n")[0]
        raise ManifestError(
            f"{file}: expected a UTF-8 table with a header line (.csv, .tsv) or a .parquet file, found: {reason}"
        ) from None


def _read_text(file: Path) -> list[Row]:
    csv.field_size_limit(MAX_FIELD_CHARS)
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    with open(file, newline="", encoding="utf-8-sig") as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
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


def _read_parquet(file: Path) -> list[Row]:
    table = read_parquet(file)
    return [{name: _as_text(value) for name, value in row.items()} for row in table.to_pylist()]


def _as_text(value: object) -> object:
    if value is None or value == "":
        return None
    if isinstance(value, list):
        return [str(item) for item in value if item is not None]
    return str(value)
