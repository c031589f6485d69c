"""What became of every row, piece by piece: the lines of a set's ledger beside the ids of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sets.ledger import Ledger
from pipeline.sets.ledger_entry import LedgerEntry
from pipeline.status import VideoStatus
from pipeline.storage.schema import PENDING, STATUS_SCHEMA

PIECE_ROWS = 1 << 16
_SAID = ("status", "error", "attempts", "seconds")


def status_pieces(
    ids: Iterable[pa.Table], ledger: Ledger, shard_rows: int, removed: np.ndarray, piece_rows: int = PIECE_ROWS
) -> Iterator[pa.Table]:
    """Yield STATUS_SCHEMA of neighbouring rows, `pending` where no ledger entry covers them; nothing of it is kept.

    Parameters
    ----------
    ids : iterable of pyarrow.Table
        `row` and `video_id` of every row in its place, piece by piece.
    removed : ndarray of int64
        Rows whose videos were removed, ascending.
    piece_rows : int
        Rows of a piece, at least: small ones are put together.
    """
    for piece in _gathered(ids, piece_rows):
        yield _status_of(piece, ledger, shard_rows, removed)


def status_of_rows(
    rows: np.ndarray, lines_of: Callable[[np.ndarray], pa.Table], ledger: Ledger, shard_rows: int, removed: np.ndarray
) -> pa.Table:
    """Return STATUS_SCHEMA of some rows, in the order given, reading the entries of their shards alone.

    Parameters
    ----------
    lines_of : callable
        Returns the catalogue's lines of some rows.
    """
    wanted, places = np.unique(rows, return_inverse=True)
    pieces = [STATUS_SCHEMA.empty_table()]
    for start in range(0, len(wanted), PIECE_ROWS):
        some = wanted[start : start + PIECE_ROWS]
        ids = lines_of(some).select(["row", "video_id"])
        cuts = [0, *(np.flatnonzero(np.diff(some) > 1) + 1).tolist(), len(some)]
        for first, last in pairwise(cuts):
            pieces.append(_status_of(ids.slice(first, last - first), ledger, shard_rows, removed))
    return pa.concat_tables(pieces).take(pa.array(places))


def _gathered(tables: Iterable[pa.Table], piece_rows: int) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    num_rows = 0
    for table in tables:
        held.append(table)
        num_rows += table.num_rows
        if num_rows >= piece_rows:
            yield pa.concat_tables(held)
            held, num_rows = [], 0
    if num_rows:
        yield pa.concat_tables(held)


def _status_of(ids: pa.Table, ledger: Ledger, shard_rows: int, removed: np.ndarray) -> pa.Table:
    """Return STATUS_SCHEMA of neighbouring rows."""
    start, n = int(ids["row"][0].as_py()), ids.num_rows
    shards = range(start // shard_rows, (start + n - 1) // shard_rows + 1)
    ledger.fetch(shards)
    pieces = []
    for shard in shards:
        first, stop = max(start, shard * shard_rows), min(start + n, (shard + 1) * shard_rows)
        pieces += _of_shard(ledger.passing(shard), first, stop)
    said = pa.concat_tables(pieces).combine_chunks()
    columns = {name: said[name] for name in (*_SAID, "generation")}
    gone = removed[np.searchsorted(removed, start) : np.searchsorted(removed, start + n)] - start
    if len(gone):
        is_gone = np.zeros(n, bool)
        is_gone[gone] = True
        columns["status"] = pc.if_else(pa.array(is_gone), VideoStatus.REMOVED.value, columns["status"])
        columns["error"] = pc.if_else(pa.array(is_gone), "", columns["error"])
    columns |= {
        "row": ids["row"],
        "video_id": ids["video_id"],
        "shard": pa.array(np.arange(start, start + n) // shard_rows),
    }
    return pa.table({field.name: columns[field.name] for field in STATUS_SCHEMA}).cast(STATUS_SCHEMA)


def _of_shard(entry: LedgerEntry | None, start: int, stop: int) -> list[pa.Table]:
    """Return what an entry says of the rows ``[start, stop)`` of its shard."""
    if entry is None or entry.row_stop <= start or entry.row_start >= stop:
        return [_pending(stop - start)]
    first, last = max(start, entry.row_start), min(stop, entry.row_stop)
    found = entry.table.select(list(_SAID)).slice(first - entry.row_start, last - first)
    found = found.append_column("generation", pa.repeat(pa.scalar(entry.generation, pa.int64()), last - first))
    pieces = [_pending(first - start), found.cast(_PIECE), _pending(stop - last)]
    return [piece for piece in pieces if piece.num_rows]


def _pending(n: int) -> pa.Table:
    blank = {"status": PENDING, "error": "", "attempts": 0, "seconds": 0.0, "generation": None}
    return pa.table([pa.repeat(pa.scalar(blank[f.name], f.type), n) for f in _PIECE], schema=_PIECE)


_PIECE = pa.schema([STATUS_SCHEMA.field(name) for name in (*_SAID, "generation")])
