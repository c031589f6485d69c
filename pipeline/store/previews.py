"""Small pictures of videos, one strip each, made while extracting: pages show them where the videos are not.

One sealed Parquet file a shard, ``previews/<shard>-<generation>.parquet``, written exclusively; of a shard the highest
generation counts, older ones are deleted once it is there. Nothing is made of previews and no feature waits for them:
what is damaged or lost costs a picture. A line names its row and the key of its video, as a ledger's does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import CorruptDataError, NotFoundError, WrongVideoError
from pipeline.sets.arrays import read_group
from pipeline.sets.binding import NOBODY
from pipeline.sets.ledger_names import GENERATIONS_AHEAD, entry_key, loose_generations
from pipeline.storage.locks import exclusive
from pipeline.storage.schema import SCHEMA_VERSION, previews_key
from pipeline.storage.sealed import seal, unseal

if TYPE_CHECKING:
    from pipeline.sets.binding import Binding
    from pipeline.storage.backend import StorageBackend

PREVIEW_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("video_key", pa.uint64(), nullable=False),
        pa.field("times_s", pa.list_(pa.float32()), nullable=False),
        pa.field("jpeg", pa.binary(), nullable=False),
    ]
)
MAX_JPEG_BYTES = 128 << 10
"""Of one strip; a larger one was not made here."""
_KEPT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Preview:
    """A strip of frames side by side, all of the same size."""

    times_s: tuple[float, ...]
    """When each is shown, ascending, counted as the geometry's times are."""
    jpeg: bytes


class Previews:
    """The previews of a dataset as they stood when they were first looked at.

    Parameters
    ----------
    backend : StorageBackend
    dataset : str
    shard_rows : int
    binding : Binding
        Whose row it is; removed rows have no picture.
    """

    def __init__(self, backend: StorageBackend, dataset: str, shard_rows: int, binding: Binding) -> None:
        self._backend, self._folder, self._dataset = backend, previews_key(dataset), dataset
        self._shard_rows, self._binding = shard_rows, binding
        self._read: OrderedDict[int, pa.Table] = OrderedDict()

    @cached_property
    def generations(self) -> dict[int, int]:
        """The generation that counts of every shard that has previews."""
        return {shard: found[-1] for shard, found in loose_generations(self._backend, self._folder).items()}

    def state(self) -> str:
        """Return a line for snapshots; nothing where there are no previews."""
        names = ";".join(f"{shard}-{generation}" for shard, generation in self.generations.items())
        return f"\npreviews:{names}" if names else ""

    def of(self, row: int) -> Preview | None:
        """Return the preview of a video; None where it has none.

        Raises
        ------
        CorruptDataError
            If the file that holds it is damaged.
        WrongVideoError
            If it holds another video's.
        """
        if row in self._binding.removed_rows:
            return None
        table = self._table(row // self._shard_rows)
        place = pc.index(table["row"], row).as_py()
        if place < 0:
            return None
        line = table.slice(place, 1).to_pylist()[0]
        return Preview(tuple(line["times_s"]), line["jpeg"])

    def _table(self, shard: int) -> pa.Table:
        if shard in self._read:
            self._read.move_to_end(shard)
            return self._read[shard]
        if shard not in self.generations:
            return PREVIEW_SCHEMA.empty_table()
        try:
            table = self.file(shard, self.generations[shard])
        except NotFoundError:  # a newer one took its place
            newer = loose_generations(self._backend, self._folder).get(shard)
            if not newer:
                return PREVIEW_SCHEMA.empty_table()
            table = self.file(shard, newer[-1])
        self._read[shard] = table
        while len(self._read) > 1 and sum(held.nbytes for held in self._read.values()) > _KEPT_BYTES:
            self._read.popitem(last=False)
        return table

    def file(self, shard: int, generation: int) -> pa.Table:
        """Return one file's lines, each held to the catalogue's video; those of removed videos left out."""
        key = entry_key(self._folder, shard, generation)
        table, metadata = unseal(self._backend.read(key), PREVIEW_SCHEMA, what=key)
        said = tuple(metadata.get(name) for name in ("kind", "dataset", "shard", "generation"))
        if said != ("previews", self._dataset, str(shard), str(generation)):
            raise CorruptDataError(f"{key}: expected the previews of that name, found {said}; delete it")
        rows, start = table["row"].to_numpy(), shard * self._shard_rows
        if len(rows) and (np.diff(rows) <= 0).any():
            raise CorruptDataError(f"{key}: expected ascending rows, found others; delete it")
        if len(rows) and not start <= rows[0] <= rows[-1] < start + self._shard_rows:
            raise CorruptDataError(f"{key}: expected rows of shard {shard}, found {rows[0]} to {rows[-1]}; delete it")
        if len(rows) == 0:
            return table
        whole = self._binding.keys(start, int(rows[-1]) + 1)
        keys, found = whole[rows - start], whole.copy()
        found[rows - start] = table["video_key"].to_numpy()
        former = self._binding.former(found, start, int(rows[-1]) + 1)[rows - start]  # of a file that was replaced
        if (other := (keys != table["video_key"].to_numpy()) & (keys != NOBODY) & ~former).any():
            raise WrongVideoError(
                f"{key}: expected pictures of the videos that the catalogue has in its rows, found another video's in "
                f"row {rows[other][0]}; delete it"
            )
        return table.filter(pa.array((keys != NOBODY) & ~former))

    def lines(self, strips: Mapping[int, Preview]) -> dict[int, pa.Table]:
        """Return strips as lines of files, by shard."""
        found = {}
        for shard in sorted({row // self._shard_rows for row in strips}):
            rows = sorted(row for row in strips if row // self._shard_rows == shard)
            start = shard * self._shard_rows
            keys = self._binding.keys(start, rows[-1] + 1)
            listed = [
                {"row": row, "video_key": int(keys[row - start]), "times_s": list(strips[row].times_s),
                 "jpeg": strips[row].jpeg}
                for row in rows if keys[row - start] != NOBODY and len(strips[row].jpeg) <= MAX_JPEG_BYTES
            ]  # fmt: skip
            if listed:
                found[shard] = pa.Table.from_pylist(listed, PREVIEW_SCHEMA)
        return found

    def save(self, strips: Mapping[int, Preview]) -> int:
        """Put previews into their shards' files, in the place of those that were there; return how many are others.

        A video whose file was replaced by name looks different now.
        """
        num_new = 0
        for shard, lines in self.lines(strips).items():
            with exclusive(self._backend, self._folder):
                newest = self._newest(shard)
                held = PREVIEW_SCHEMA.empty_table()
                if newest >= 0:
                    with suppress(CorruptDataError, WrongVideoError):  # the new file takes its place
                        held = self.file(shard, newest)
                known = dict(zip(held["row"].to_pylist(), held["jpeg"].to_pylist(), strict=True))
                pairs = zip(lines["row"].to_pylist(), lines["jpeg"].to_pylist(), strict=True)
                new = lines.filter(pa.array([known.get(row) != jpeg for row, jpeg in pairs], pa.bool_()))
                if new.num_rows:
                    stays = held.filter(pc.invert(pc.is_in(held["row"], value_set=new["row"].combine_chunks())))
                    whole = pa.concat_tables([stays, new]).sort_by("row")
                    _write(self._backend, self._dataset, shard, newest + 1, whole)
                    self.generations[shard] = newest + 1
                    self._read.pop(shard, None)
                num_new += new.num_rows
        return num_new

    def _newest(self, shard: int) -> int:
        """Return the newest generation now, -1 where there is none, without listing other shards'."""
        expected = self.generations.get(shard, -1)
        for generation in range(expected + GENERATIONS_AHEAD, max(expected - 1, -1), -1):
            if self._backend.exists(entry_key(self._folder, shard, generation)):
                return generation
        if expected < 0:
            return -1
        return loose_generations(self._backend, self._folder).get(shard, [-1])[-1]


def _write(backend: StorageBackend, dataset: str, shard: int, generation: int, table: pa.Table) -> None:
    """Write a generation, and delete the one before it."""
    folder = previews_key(dataset)
    metadata = {"kind": "previews", "schema_version": str(SCHEMA_VERSION), "dataset": dataset,
                "shard": str(shard), "generation": str(generation)}  # fmt: skip
    backend.create(entry_key(folder, shard, generation), seal(table.cast(PREVIEW_SCHEMA), metadata))
    if generation:
        backend.delete(entry_key(folder, shard, generation - 1))


def shard_rows_of(backend: StorageBackend, dataset: str) -> int:
    """Return the rows a shard of a dataset."""
    return int(read_group(backend, dataset, "dataset")["shard_rows"])


def erase_previews(backend: StorageBackend, dataset: str, rows: np.ndarray, binding: Binding) -> int:
    """Write every file that holds one of the rows again without it; return how many. What is damaged goes whole."""
    folder, shard_rows = previews_key(dataset), shard_rows_of(backend, dataset)
    previews, changed = Previews(backend, dataset, shard_rows, binding), 0
    for shard in sorted({row // shard_rows for row in rows.tolist()}):
        with exclusive(backend, folder):
            found = loose_generations(backend, folder).get(shard, [])
            if not any(_holds(backend, folder, shard, generation, rows) for generation in found):
                continue
            with suppress(CorruptDataError, WrongVideoError):  # or nobody can say whose pictures these are
                table = previews.file(shard, found[-1])
                kept = table.filter(pc.invert(pc.is_in(table["row"], value_set=pa.array(rows))))
                if kept.num_rows:
                    _write(backend, dataset, shard, found[-1] + 1, kept)
            for generation in found:
                backend.delete(entry_key(folder, shard, generation))
            changed += 1
    return changed


def preview_leftovers(backend: StorageBackend, dataset: str, rows: np.ndarray) -> Iterator[str]:
    """Yield the files that hold a picture of one of the rows."""
    folder = previews_key(dataset)
    found = loose_generations(backend, folder)
    if not found:
        return
    for shard in sorted({row // shard_rows_of(backend, dataset) for row in rows.tolist()}):
        for generation in found.get(shard, []):
            if _holds(backend, folder, shard, generation, rows):
                yield entry_key(folder, shard, generation)


def _holds(backend: StorageBackend, folder: str, shard: int, generation: int, rows: np.ndarray) -> bool:
    key = entry_key(folder, shard, generation)
    try:
        table, _ = unseal(backend.read(key), PREVIEW_SCHEMA, what=key)
    except NotFoundError:
        return False
    except CorruptDataError:
        return True
    return bool(np.isin(table["row"].to_numpy(), rows).any())
