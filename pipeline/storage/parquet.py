"""The one place that reads Parquet: in the calling thread.

Arrow would read columns in threads of its own, which live until the process ends. One of them may still be letting go
of Python's bytes while the interpreter shuts down; Python then takes the thread off its stage by unwinding it, C++ does
not allow that, and a command that had done its work aborts (``terminate called without an active exception``).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage.range_file import RangeFile


def read_parquet(source: bytes | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file; its key-value metadata is the table schema's.

    Parameters
    ----------
    source : bytes or Path
    columns : sequence of str, optional
        Decode these alone, those of them that are there; None: all.

    Raises
    ------
    pyarrow.ArrowException, OSError
        If it is no Parquet file, or damaged.
    """
    reader = pa.BufferReader(source) if isinstance(source, bytes) else str(source)
    with pq.ParquetFile(reader, pre_buffer=False) as file:
        table = file.read(columns=None if columns is None else list(columns), use_threads=False)
        return table.replace_schema_metadata(file.metadata.metadata)


class ParquetPieces:
    """A Parquet file of which one row group at a time is read, pages held to their checksums.

    Parameters
    ----------
    source : RangeFile
        Kept open by whoever made it. A row group is fetched in one request, not one a column.

    Raises
    ------
    pyarrow.ArrowException, OSError
        If it is no Parquet file, or damaged; also of :meth:`group`.
    """

    def __init__(self, source: RangeFile | io.BytesIO) -> None:
        self._source = source
        opened = pa.PythonFile(source, mode="r")
        self._file = pq.ParquetFile(opened, pre_buffer=False, page_checksum_verification=True)
        footer = self._file.metadata
        self.metadata = {
            k.decode(errors="replace"): v.decode(errors="replace") for k, v in (footer.metadata or {}).items()
        }
        """Key-value metadata of the file."""
        self.num_rows = int(footer.num_rows)
        self.group_rows = [int(footer.row_group(i).num_rows) for i in range(footer.num_row_groups)]
        """Rows of every row group."""

    def group(self, number: int) -> pa.Table:
        """Return one row group."""
        footer = self._file.metadata.row_group(number)
        columns = [footer.column(k) for k in range(footer.num_columns)]
        starts = [min(c.data_page_offset, c.dictionary_page_offset or c.data_page_offset) for c in columns]
        stops = [start + c.total_compressed_size for start, c in zip(starts, columns, strict=True)]
        if isinstance(self._source, RangeFile):
            self._source.hold(min(starts, default=0), max(stops, default=0))
        return self._file.read_row_group(number, use_threads=False)
