"""The one place that reads Parquet: in the calling thread.

Arrow would read columns in threads of its own, which live until the process ends. One of them may still be letting go
of Python's bytes while the interpreter shuts down; Python then takes the thread off its stage by unwinding it, C++ does
not allow that, and a command that had done its work aborts (``terminate called without an active exception``).
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(source: bytes | Path) -> pa.Table:
    """Read a whole Parquet file; its key-value metadata is the table schema's.

    Parameters
    ----------
    source : bytes or Path

    Raises
    ------
    pyarrow.ArrowException, OSError
        If it is no Parquet file, or damaged.
    """
    reader = pa.BufferReader(source) if isinstance(source, bytes) else str(source)
    with pq.ParquetFile(reader, pre_buffer=False) as file:
        table = file.read(use_threads=False)
        return table.replace_schema_metadata(file.metadata.metadata)
