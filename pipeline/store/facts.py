"""Facts of a file that were learned after its row was catalogued: it was late, half copied, broken, or was replaced.

A line is a new state of its row. What a ledger says of the row names the state it was made from (:func:`state_key`), so
the moment the line is committed nothing that was made from the file before counts any more, whoever made it and
whenever: the row is pending again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.errors import InvalidInputError
from pipeline.storage.columns import column_of, no_lines, values_of
from pipeline.storage.schema import CATALOGUE_SCHEMA
from pipeline.store.side_files import KEY_FIELDS, SideFiles

if TYPE_CHECKING:
    from pipeline.storage.backend import StorageBackend

FACTS = "facts"
_NOT_FACTS = ("row", "video_id", "label", "labels", "splits", "group", "added_at")
FACT_COLUMNS = tuple(name for name in CATALOGUE_SCHEMA.names if name not in _NOT_FACTS)
FACTS_SCHEMA = pa.schema(
    [
        *KEY_FIELDS,
        *(CATALOGUE_SCHEMA.field(name) for name in FACT_COLUMNS),
        pa.field("changed_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""``facts-<n>.parquet``: all of these columns of every row that it names."""
_STATE = ("row", "sha256", "changed_at")


def open_facts(backend: StorageBackend, dataset: str, count: int | None = None) -> SideFiles:
    """Return the facts files of a dataset; `count` of them, or all that there are."""
    return SideFiles(backend, dataset, FACTS, FACTS_SCHEMA, count)


class FactStates:
    """The states that rows have had since they were catalogued.

    Parameters
    ----------
    files : SideFiles
        Facts.
    """

    def __init__(self, files: SideFiles) -> None:
        self.count = files.count
        files.fetch()
        tables = [files.file(number)[0].select(list(_STATE)) for number in range(files.count)]
        lines = pa.concat_tables([no_lines(pa.schema([FACTS_SCHEMA.field(name) for name in _STATE])), *tables])
        number = np.repeat(np.arange(files.count), [len(table) for table in tables])
        order = np.lexsort((number, values_of(lines["row"])))
        self._lines = lines.take(column_of(order)).combine_chunks()
        self._row, self._number = values_of(self._lines["row"]), number[order]

    def rows_in(self, start: int, stop: int) -> list[int]:
        """Return the rows of ``[start, stop)`` that have a later state than the catalogue's, ascending."""
        if not len(self._row):
            return []
        first, last = np.searchsorted(self._row, (start, stop))
        return np.unique(self._row[first:last]).tolist()

    def key(self, row: int, video_id: str) -> int:
        """Return the key of such a row's present state."""
        return state_key(video_id, self._states(row)[-1])

    def former_keys(self, row: int, video_id: str) -> list[int]:
        """Return the keys of the states it had before, the catalogue's first."""
        earlier = [state_key(video_id, state) for state in self._states(row)[:-1]]
        return [state_key(video_id), *earlier]

    def _states(self, row: int) -> list[str]:
        first, last = np.searchsorted(self._row, (row, row + 1))
        lines = self._lines.slice(first, last - first).to_pylist()
        numbers = self._number[first:last].tolist()
        return [
            f"{number}\0{line['sha256']}\0{line['changed_at'].isoformat()}"
            for number, line in zip(numbers, lines, strict=True)
        ]


def state_key(video_id: str, state: str | None = None) -> int:
    """Return the first 8 bytes (little endian) of the sha256 of a video id, and of a later state of its row."""
    text = video_id if state is None else f"{video_id}\0{state}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def fact_lines(
    seen: SideFiles, video_ids: Sequence[str], facts: Mapping[int, Mapping[str, Any]], removed: Iterable[int]
) -> pa.Table:
    """Return the lines of a facts file; none for rows of which the newest file says the same already.

    Parameters
    ----------
    seen : SideFiles
        The facts as they stand.
    video_ids : sequence of str
        Of the rows of `facts`, ascending.
    facts : mapping of row to mapping
        Every column of FACT_COLUMNS.
    removed : iterable of int
        Rows of which nothing is written any more.
    """
    for row, given in facts.items():
        if set(given) != set(FACT_COLUMNS):
            raise InvalidInputError(f"row {row}: expected {', '.join(FACT_COLUMNS)}, found {', '.join(sorted(given))}")
    state = {line["row"]: (line["sha256"], line["probe_error"]) for line in seen.state.to_pylist()}
    gone, now = set(removed), datetime.now(UTC)
    keys = np.array([state_key(video_id) for video_id in video_ids], np.uint64)
    lines = [
        {"row": row, "video_key": key, **facts[row], "changed_at": now}
        for row, key in zip(sorted(facts), keys.tolist(), strict=True)
        if row not in gone and state.get(row) != (facts[row]["sha256"], facts[row]["probe_error"])
    ]
    return pa.Table.from_pylist(lines, FACTS_SCHEMA)
