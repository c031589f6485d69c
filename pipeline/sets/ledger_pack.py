"""A pack: the entries of many shards in one sealed Parquet file, so that a large ledger is a few files.

A line is one row of one entry, as in a single entry's file, with the shard, the generation and what the entry says
about itself beside it. Entries lie one after another, a few to a row group, so that one of them is read without the
others. The footer holds an index: what is in the pack, where, and each entry's content id, to which whoever reads an
entry holds it. Every pack is written twice; the copy serves where the file is damaged.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from pipeline.errors import CorruptDataError, NotFoundError, SchemaVersionError
from pipeline.fingerprint import canonical_json
from pipeline.sets.pack_group import PACK_SCHEMA, EntryGroup, PackedEntry
from pipeline.storage.backend import StorageBackend
from pipeline.storage.parquet import ParquetPieces
from pipeline.storage.range_file import RangeFile
from pipeline.storage.schema import LEDGER_SCHEMA, SCHEMA_VERSION, pack_copy_key, pack_key
from pipeline.storage.sealed import check_seal, seal
from pipeline.storage.shardfile import crc32c


@dataclass(frozen=True)
class PackSize:
    """How large packs grow.

    Attributes
    ----------
    max_rows : int
        Rows of a pack that is not merged any further: some 40 MB, which a merge holds in memory.
    lines_per_group : int
        Rows of a row group, whole entries: what is read for the sake of one entry.
    """

    max_rows: int = 1 << 20
    lines_per_group: int = 8192


PACK_SIZE = PackSize()
_ENCODING = {
    "compression": "snappy",
    "use_dictionary": ["shard", "generation", "status", "error", "attempts", "num_valid", "entry"],
    "column_encoding": {"row": "DELTA_BINARY_PACKED"},
}
"""What repeats itself as numbers of what it repeats, and rows as differences: a row group is read in a quarter of the
time that zstd and dictionaries of checksums take, and is a third of the size. `entry` needs one dictionary a row group,
or Arrow gives it up and writes the text in every line."""

Glance: TypeAlias = tuple[int, int, str, dict[str, int]]
"""First row of an entry, the row after its last, its content id, and its rows by status."""


@dataclass(frozen=True)
class PackIndex:
    """The footer of a pack; arrays have one place an entry, by shard and generation."""

    shard: np.ndarray
    generation: np.ndarray
    row_start: np.ndarray
    row_stop: np.ndarray
    content_id: np.ndarray
    """(n,) S64."""
    counts: dict[str, np.ndarray]
    """Rows by status."""
    supersedes: frozenset[int]
    """Packs whose entries are in this one or in another that counts."""
    standing: frozenset[int]
    """Packs that counted beside this one when it was made: they must be there."""

    def __len__(self) -> int:
        return len(self.shard)

    def glance(self, place: int) -> Glance:
        """Return what stands here about one entry."""
        return next(self.glances(slice(place, place + 1)))

    def glances(self, part: slice = slice(None)) -> Iterator[Glance]:
        """Yield what stands here about each entry."""
        starts, stops = self.row_start[part].tolist(), self.row_stop[part].tolist()
        counts = zip(*(column[part].tolist() for column in self.counts.values()), strict=True)
        for start, stop, content_id, found in zip(starts, stops, self.content_id[part].tolist(), counts, strict=True):
            by_status = {status: n for status, n in zip(self.counts, found, strict=True) if n}
            yield start, stop, content_id.decode(), by_status

    @property
    def num_rows(self) -> int:
        """Lines of the pack."""
        return int((self.row_stop - self.row_start).sum())


def encode_pack(
    entries: Sequence[PackedEntry],
    *,
    ledger: str,
    number: int,
    supersedes: Iterable[int],
    standing: Iterable[int],
    lines_per_group: int = PACK_SIZE.lines_per_group,
) -> bytes:
    """Return a pack as a sealed Parquet file.

    Parameters
    ----------
    entries : sequence of PackedEntry
        By shard and generation.
    """
    groups: list[pa.Table] = []
    lines = 0
    gathered: list[pa.Table] = []
    for entry in entries:
        gathered.append(_lines(entry))
        lines += entry.table.num_rows
        if lines >= lines_per_group:
            groups.append(pa.concat_tables(gathered).unify_dictionaries())
            gathered, lines = [], 0
    if gathered:
        groups.append(pa.concat_tables(gathered).unify_dictionaries())
    statuses = [entry.table["status"].to_numpy(zero_copy_only=False) for entry in entries]
    names = sorted({name for column in statuses for name in set(column.tolist())})
    index = canonical_json(
        {
            "shard": [e.shard for e in entries],
            "generation": [e.generation for e in entries],
            "row_start": [e.row_start for e in entries],
            "row_stop": [e.row_start + e.table.num_rows for e in entries],
            "content_id": [e.content_id for e in entries],
            "counts": {name: [int((column == name).sum()) for column in statuses] for name in names},
            "supersedes": sorted(supersedes),
            "standing": sorted(standing),
        }
    )
    metadata = {
        "kind": "ledger_pack",
        "schema_version": str(SCHEMA_VERSION),
        "ledger": ledger,
        "number": str(number),
        "index": index,
        "index_crc32c": str(crc32c(f"{ledger}:{number}:{index}".encode())),
    }
    return seal(groups or [PACK_SCHEMA.empty_table()], metadata, encoding=_ENCODING)


def _lines(entry: PackedEntry) -> pa.Table:
    n = entry.table.num_rows
    meta = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([entry.meta]))
    columns = [
        pa.array(np.full(n, entry.shard)),
        pa.array(np.full(n, entry.generation)),
        *(entry.table[name] for name in LEDGER_SCHEMA.names),
        meta,
    ]
    return pa.table(columns, schema=PACK_SCHEMA)


class Pack:
    """One pack of a ledger, by its number. The index is read at once, entries when they are asked for."""

    def __init__(self, backend: StorageBackend, ledger: str, number: int) -> None:
        self._backend = backend
        self._ledger = ledger
        self.number = number
        self._is_copy = False
        self._group: tuple[int, int, EntryGroup] | None = None
        """The row group that was read last: its number, its first entry's place, and the entries."""
        self.index = self._with_copy(self._read_index)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def key(self) -> str:
        """Key of the file that is read."""
        return (pack_copy_key if self._is_copy else pack_key)(self._ledger, self.number)

    def entry(self, place: int) -> PackedEntry:
        """Return an entry by its place in the index; its content id is the caller's to check.

        Raises
        ------
        CorruptDataError
            If neither the file nor its copy can be read.
        NotFoundError
            If the pack was removed: its entries are in a newer one.
        """
        return self._with_copy(lambda: self._read_entry(place))

    def use_copy(self) -> bool:
        """Read the copy from now on; return False where that is what was read."""
        if self._is_copy:
            return False
        self._is_copy, self._group = True, None
        self.__dict__.pop("_file", None)
        return True

    def _with_copy(self, read: Any) -> Any:
        try:
            return read()
        except SchemaVersionError:
            raise
        except (CorruptDataError, NotFoundError) as err:
            if not self.use_copy():
                raise
            try:
                return read()
            except NotFoundError:
                raise err from None
            except CorruptDataError as worse:  # a file that is gone may have been merged, a copy that is wrong may not
                raise (worse if isinstance(err, NotFoundError) else err) from None

    @cached_property
    def _file(self) -> ParquetPieces:
        try:
            return ParquetPieces(RangeFile(self._backend, self.key))
        except (pa.ArrowException, OSError) as err:
            raise CorruptDataError(f"{self.key}: expected a pack of ledger entries, found: {err}") from err

    def _read_index(self) -> PackIndex:
        what = self.key
        metadata = self._file.metadata
        try:
            version = int(metadata["schema_version"])
            if version > SCHEMA_VERSION:
                raise SchemaVersionError(
                    f"{what}: expected schema version {SCHEMA_VERSION} or older, found {version}; a newer version of "
                    "this project wrote it, so use that one"
                )
            text = metadata["index"]
            named = f"{self._ledger}:{self.number}:{text}"
            if metadata["index_crc32c"] != str(crc32c(named.encode())):
                raise ValueError("its index fails its checksum, or is of another pack")
            found = json.loads(text)
            numbers = {n: np.array(found[n], np.int64) for n in ("shard", "generation", "row_start", "row_stop")}
            counts = {str(status): np.array(column, np.int64) for status, column in found["counts"].items()}
            index = PackIndex(
                **numbers, content_id=np.array(found["content_id"], "S64"), counts=counts,
                supersedes=frozenset(found["supersedes"]), standing=frozenset(found["standing"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as err:
            raise CorruptDataError(f"{what}: expected the index of a pack, found something else: {err}") from err
        columns = (index.generation, index.row_start, index.row_stop, index.content_id, *counts.values())
        if (len(index) and not counts) or any(len(column) != len(index) for column in columns):
            raise CorruptDataError(f"{what}: expected one place an entry in every column of its index, found others")
        if index.num_rows != self._file.num_rows:
            raise CorruptDataError(f"{what}: expected {index.num_rows} lines, found {self._file.num_rows}")
        return index

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the first line of every entry, and of every row group (and the end)."""
        lines = np.concatenate([[0], np.cumsum(self.index.row_stop - self.index.row_start)])
        return lines, np.concatenate([[0], np.cumsum(self._file.group_rows)])

    def _read_entry(self, place: int) -> PackedEntry:
        lines, groups = self._places
        group = int(groups.searchsorted(lines[place], "right")) - 1
        if self._group is None or self._group[0] != group:
            first, last = lines.searchsorted(groups[group : group + 2])
            try:
                found = EntryGroup.of(
                    self._file.group(group), self.index.shard[first:last], self.index.row_start[first:last],
                    lines[first : last + 1] - groups[group],
                )  # fmt: skip
            except (pa.ArrowException, KeyError, ValueError, OSError) as err:
                raise CorruptDataError(f"{self.key}: expected a row group of entries, found: {err}") from err
            self._group = (group, first, found)
        _, first, found = self._group
        try:
            return found.entry(place - first, int(self.index.generation[place]), self.index.content_id[place].decode())
        except ValueError as err:
            raise CorruptDataError(f"{self.key}: {err}") from err


def check_pack(backend: StorageBackend, ledger: str, number: int) -> dict[str, str]:
    """Return what is wrong with a pack's file and its copy, by key: nothing where both are as they were written."""
    problems = {}
    for key in (pack_key(ledger, number), pack_copy_key(ledger, number)):
        try:
            data = backend.read(key)
            check_seal(data, what=key)
        except (CorruptDataError, NotFoundError) as err:
            problems[key] = str(err)
            continue
        if (said := named_pack(data)) != f"pack {number} of {ledger}":
            problems[key] = f"expected pack {number} of {ledger}, found {said} under another name"
    return problems


def named_pack(data: bytes) -> str:
    """Return which pack a sealed file says that it is, ``pack 3 of LEDGER``, or that it is none."""
    try:
        metadata = ParquetPieces(io.BytesIO(data)).metadata
    except (pa.ArrowException, OSError):
        return "another file"
    named = metadata.get("kind") == "ledger_pack"
    return f"pack {metadata.get('number')} of {metadata.get('ledger')}" if named else "another file"
