"""Answers of queries as every reader can hold them: names that differ, types that JSON, CSV and Parquet know."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_INT64_DIGITS = 38
"""How wide DuckDB makes the sum of whole numbers: a decimal that readers take for text or refuse."""


def plain_answer(table: pa.Table) -> pa.Table:
    """Return an answer whose columns have names of their own and types that files and JSON can carry.

    Of equal names the first keeps it, the next become ``name_1``, ``name_2``, as DuckDB itself calls them in a
    subquery. Sums of whole numbers are int64 where they fit. Intervals and enumerations become text.
    """
    columns = [_plain_column(column) for column in table.columns]
    return pa.table(columns, names=distinct_names(table.column_names))


_FORMULA_BEGINS = tuple("=+-@\t\r")


def without_formulas(table: pa.Table) -> pa.Table:
    """Return a table whose texts no spreadsheet takes for a formula: such cells and headers begin with ``'``.

    A file name or a label may come from a stranger, and ``=HYPERLINK(...)`` in a CSV file runs in whoever opens it.
    """
    columns = []
    for column in table.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            texts = [_as_text_cell(text) for text in column.to_pylist()]
            column = pa.chunked_array([pa.array(texts, column.type)])
        columns.append(column)
    return pa.table(columns, names=[_as_text_cell(name) or "" for name in table.column_names])


def _as_text_cell(text: str | None) -> str | None:
    return f"'{text}" if text is not None and text.startswith(_FORMULA_BEGINS) else text


def distinct_names(names: Iterable[str]) -> list[str]:
    """Return the names, those that came before with ``_1``, ``_2`` ...; upper and lower case count as the same."""
    listed = list(names)
    taken = {name.lower() for name in listed}
    seen: set[str] = set()
    result = []
    for name in listed:
        given, number = name, 0
        if name.lower() in seen:
            while given.lower() in taken:
                number += 1
                given = f"{name}_{number}"
            taken.add(given.lower())
        seen.add(given.lower())
        result.append(given)
    return result


def _plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_decimal(kind) and kind.scale == 0 and kind.precision >= _INT64_DIGITS:
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            return column  # larger than any int64; JSON still writes it as a number
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_interval(kind):
        return pa.chunked_array([pa.array([_interval_text(v) for v in column.to_pylist()], pa.string())])
    if pa.types.is_temporal(kind):
        return _dates_of_python(column)
    if pa.types.is_null(kind):
        return pc.cast(column, pa.string())
    return column


def _dates_of_python(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return dates and times as they are, or as text where Python knows no such year (SQL counts to 294247)."""
    try:
        column.to_pylist()
    except (ValueError, OverflowError):
        kind = column.type
        if not (pa.types.is_date32(kind) or pa.types.is_timestamp(kind)):
            return column.cast(pa.string())
        unit: Any
        whole, unit = (pa.int32(), "D") if pa.types.is_date32(kind) else (pa.int64(), kind.unit)
        texts = [None if v is None else str(np.datetime64(int(v), unit)) for v in column.cast(whole).to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
    return column


def _interval_text(value: Any) -> str | None:
    if value is None:
        return None
    months, days, nanoseconds = value
    parts = [f"{months} months"] * bool(months) + [f"{days} days"] * bool(days)
    if nanoseconds or not parts:
        parts.append(f"{nanoseconds / 1e9:g} s")
    return " ".join(parts)


def json_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows as JSON can say them: NaN and infinities are null, maps are objects, bytes are hex digits."""
    maps = {name for name, field in zip(table.column_names, table.schema, strict=True) if pa.types.is_map(field.type)}
    return [
        {name: json_value(_as_mapping(value) if name in maps else value) for name, value in row.items()}
        for row in table.to_pylist()
    ]


def json_text(value: Any) -> str:
    """Return strict JSON: what it cannot say is said as :func:`json_rows` does."""
    return json.dumps(json_value(value), ensure_ascii=False, allow_nan=False)


def json_value(value: Any) -> Any:
    """Return a value as JSON can say it."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(name): json_value(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        if value and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):  # a map within a list
            return {str(name): json_value(held) for name, held in value}
        return [json_value(held) for held in value]
    return str(value)


def _as_mapping(pairs: Any) -> Any:
    return None if pairs is None else dict(pairs)
