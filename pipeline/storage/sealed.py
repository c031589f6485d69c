"""Ordinary Parquet files that notice a flipped byte.

Parquet checks its pages at most, never its footer: one flipped bit there moves an offset, renames a column or turns a
statistic, and a reader may answer wrongly. So the footer carries a crc32c over the whole file, taken with the
checksum's own eight digits set to zeros. Any Parquet reader opens the file and ignores it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import CorruptDataError, SchemaVersionError
from pipeline.storage.parquet import read_parquet
from pipeline.storage.schema import SCHEMA_VERSION
from pipeline.storage.shardfile import crc32c

_MARK = b"crc32c:"
_BLANK = b"00000000"
SEAL_KEY = "scale.seal"
_REMEMBERED = 256
_REMEMBERED_BYTES = 64 << 10
"""Larger files are read anew each time."""


def seal(
    table: pa.Table | Sequence[pa.Table],
    metadata: Mapping[str, str],
    *,
    is_small: bool = False,
    encoding: Mapping[str, Any] | None = None,
) -> bytes:
    """Write a table as one sealed Parquet file in memory.

    Parameters
    ----------
    table : pyarrow.Table or sequence of pyarrow.Table
        Several become a row group each, with Parquet's own checksum of every page, so that one is read by itself.
    metadata : mapping of str to str
        Key-value metadata of the file.
    is_small : bool, default False
        Of a few hundred lines, and read over and over: zstd sets itself up anew for each column and a dictionary is a
        page more, which takes longer than the decoding; snappy without one reads in 0.4 of the time, at the same size.
    encoding : mapping, optional
        How columns are written, in the words of ``pyarrow.parquet.ParquetWriter``.
    """
    sink = io.BytesIO()
    groups = [table] if isinstance(table, pa.Table) else table
    apart: dict[str, Any] = {} if isinstance(table, pa.Table) else {"write_page_checksum": True}
    packed: dict[str, Any] = {"compression": "snappy", "use_dictionary": False} if is_small else {"compression": "zstd"}
    with pq.ParquetWriter(sink, groups[0].schema, **{**packed, **apart, **(encoding or {})}) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(len(group), 1))
        writer.add_key_value_metadata({**metadata, SEAL_KEY: (_MARK + _BLANK).decode()})
    return resealed(sink.getvalue())


def resealed(data: bytes) -> bytes:
    """Return the bytes of a file with the seal that holds for them.

    Raises
    ------
    CorruptDataError
        If there is no place for one.
    """
    place = data.rfind(_MARK) + len(_MARK)
    blank = data[:place] + _BLANK + data[place + len(_BLANK) :]
    if place < len(_MARK) or len(blank) != len(data):
        raise CorruptDataError("expected a place for a seal, found none")
    return data[:place] + f"{crc32c(blank):08x}".encode() + data[place + len(_BLANK) :]


def check_seal(data: bytes, *, what: str) -> None:
    """Raise :class:`CorruptDataError` unless the file is byte for byte what was sealed."""
    mark = data.rfind(_MARK)
    place = mark + len(_MARK)
    if mark >= 0:
        blank = data[:place] + _BLANK + data[place + len(_BLANK) :]
        if data[place : place + len(_BLANK)] == f"{crc32c(blank):08x}".encode():
            return
    raise CorruptDataError(
        f"{what}: expected {len(data)} bytes that match their seal, found damage; run `scale verify --repair`"
    )


def unseal(data: bytes, schema: pa.Schema, *, what: str) -> tuple[pa.Table, dict[str, str]]:
    """Read a sealed Parquet file.

    Parameters
    ----------
    schema : pyarrow.Schema
        What is decoded; the seal is over all of the file.

    Returns
    -------
    table : pyarrow.Table
        With exactly `schema`; nullable columns that came later than the file are null.
    metadata : dict of str to str

    Raises
    ------
    CorruptDataError
        If the seal does not hold or the columns are others.
    SchemaVersionError
        If a newer version of this project wrote it.
    """
    check_seal(data, what=what)
    try:
        read = _read_small if len(data) <= _REMEMBERED_BYTES else read_parquet
        found = read(data, tuple(schema.names))
        metadata = {k.decode(): v.decode() for k, v in (found.schema.metadata or {}).items() if k != b"ARROW:schema"}
        version = int(metadata.get("schema_version", SCHEMA_VERSION))
        if version > SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{what}: expected schema version {SCHEMA_VERSION} or older, found {version}; a newer version of this "
                "project wrote it, so use that one"
            )
        table = found.replace_schema_metadata(schema.metadata)
        if not table.schema.equals(schema):
            for later in schema:
                if later.nullable and later.name not in table.column_names:
                    table = table.append_column(later, pa.nulls(table.num_rows, later.type))
            table = table.select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError, ValueError, OverflowError, OSError) as err:  # Arrow calls bad pages an OSError
        raise CorruptDataError(f"{what}: expected the columns {', '.join(schema.names)}, found: {err}") from err
    return table, metadata


@lru_cache(maxsize=_REMEMBERED)
def _read_small(data: bytes, columns: tuple[str, ...]) -> pa.Table:
    """Read a file, or hand out what the same bytes gave before: a run opens a dataset once a stage, verify more often.

    Arrow needs a millisecond for a ledger entry, whatever is in it; to find out that the bytes are the same takes
    twenty microseconds, and tables never change.
    """
    table = read_parquet(data)  # to find columns by their names takes as long as to decode half of them
    if set(columns) >= set(table.column_names):
        return table
    return table.select([name for name in columns if name in table.column_names])
