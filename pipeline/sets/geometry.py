"""The geometry that the backbones of a crop set share.

It is a pure function of policy, seed and video, so whoever reaches a row first writes it, and everybody later must
find the same bytes. A row counts as written once some ledger vouches for it, by its checksum, with valid crops.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import ConflictError, CorruptDataError, NotFoundError, SnapshotChangedError
from pipeline.sets.arrays import write_array_metadata
from pipeline.sets.binding import Binding
from pipeline.sets.ledger import Ledger
from pipeline.sets.mapped import open_shard
from pipeline.sets.set_files import SetSpec
from pipeline.sets.shard_task import ShardTask
from pipeline.storage.backend import StorageBackend
from pipeline.storage.layout import ArrayLayout
from pipeline.storage.locks import exclusive
from pipeline.storage.schema import shard_key
from pipeline.storage.shardfile import encode_shard, row_checksums


def commit_geometry(
    backend: StorageBackend,
    spec: SetSpec,
    layout: ArrayLayout,
    task: ShardTask,
    offered: np.ndarray,
    has_values: list[bool],
    removed: np.ndarray,
    binding: Binding,
) -> np.ndarray:
    """Write the shard's geometry unless it is there; return it as stored.

    Parameters
    ----------
    offered : ndarray of shape (n, V, 9), float32
        Of all rows of the task's shard.
    has_values : list of bool
        Which of them have valid crops in this set.
    removed : ndarray of int64
        Places of rows whose videos were removed: what stands there goes.
    binding : Binding
        Says what was made from files that were replaced since: nobody is held to that.

    Raises
    ------
    ConflictError
        If another set committed other bytes for a row.
    """
    array = spec.array("geometry")
    assert spec.crop_set is not None
    with exclusive(backend, spec.crop_set):
        write_array_metadata(backend, array.key, layout, task.row_stop, array.dimension_names)
        stored = _stored_rows(backend, array.key, layout, task.shard)
        final = np.zeros((max(len(stored), len(offered)), *layout.row_shape), np.float32)
        final[: len(stored)] = stored
        is_set = np.zeros(len(final), bool)
        is_set[: len(stored)] = stored.any(axis=(1, 2))
        differs = np.flatnonzero(is_set[: len(offered)] & (final[: len(offered)] != offered).any(axis=(1, 2)))
        conflicting = [k for k in differs.tolist() if has_values[k]]
        _check_conflicts(backend, spec, task, offered, conflicting, binding)
        take = np.array(has_values, bool) | ~is_set[: len(offered)]
        final[: len(offered)][take] = offered[take]
        final[removed] = 0
        if len(final) != len(stored) or not np.array_equal(final, stored):
            backend.put(shard_key(array.key, task.shard, layout.ndim), encode_shard(final, layout))
        return final[: len(offered)]


def _stored_rows(backend: StorageBackend, key: str, layout: ArrayLayout, shard: int) -> np.ndarray:
    """Return the stored rows, zeros for those that were never written; nothing where the shard is absent or torn."""
    try:
        rows = open_shard(backend, key, layout, shard, layout)
    except (NotFoundError, CorruptDataError):
        return np.zeros((0, *layout.row_shape), np.float32)
    stored = np.empty((rows.num_rows, *layout.row_shape), np.float32)
    rows.gather(np.arange(rows.num_rows), stored)
    stored[np.isnan(stored).any(axis=(1, 2))] = 0  # padding
    last = np.flatnonzero(stored.any(axis=(1, 2)))
    return stored[: int(last[-1]) + 1] if last.size else stored[:0]


def vouched_rows(backend: StorageBackend, crop_set: str, key: str, layout: ArrayLayout, shard: int) -> np.ndarray:
    """Return a shard's rows of which some ledger knows the checksum; zeros for the others. For repairs."""
    stored = _stored_rows(backend, key, layout, shard)
    known = np.zeros(len(stored), bool)
    found = row_checksums(stored)
    for name in backend.folders(f"{crop_set}/ledger"):
        try:
            entry = Ledger(backend, f"{crop_set}/ledger/{name}", binding=None).entry(shard)
        except (CorruptDataError, SnapshotChangedError):
            continue
        if entry is not None:
            n = min(len(stored), len(entry.num_valid))
            known[:n] |= (entry.checksums("geometry")[:n] == found[:n]) & (entry.num_valid[:n] > 0)
    stored[~known] = 0
    return stored[: int(np.flatnonzero(known)[-1]) + 1] if known.any() else stored[:0]


def _check_conflicts(
    backend: StorageBackend,
    spec: SetSpec,
    task: ShardTask,
    offered: np.ndarray,
    conflicting: list[int],
    binding: Binding,
) -> None:
    """Raise unless nobody vouches for the stored bytes of these rows, or somebody vouches for the offered ones."""
    if not conflicting:
        return
    vouched: dict[int, dict[int, str]] = {k: {} for k in conflicting}
    for name in backend.folders(f"{spec.crop_set}/ledger"):
        ledger = Ledger(backend, f"{spec.crop_set}/ledger/{name}", binding=None)
        try:
            entry = ledger.entry(task.shard)
        except (CorruptDataError, SnapshotChangedError):
            continue
        if entry is None:
            continue
        checksums = entry.checksums("geometry")
        counts = entry.num_valid.copy()
        if entry.video_keys is not None:
            counts[binding.former(entry.video_keys, entry.row_start, entry.row_stop)] = 0
        for k in conflicting:
            inside = task.row_start + k - entry.row_start
            if inside < len(checksums) and counts[inside] > 0:
                vouched[k][int(checksums[inside])] = name
    found = row_checksums(offered[conflicting])
    for k, checksum in zip(conflicting, found.tolist(), strict=True):
        if vouched[k] and checksum not in vouched[k]:
            raise ConflictError(
                f"{spec.label}: expected the geometry of row {task.row_start + k} that feature set "
                f"{', '.join(vouched[k].values())} committed, found other crops; geometry must follow from policy, "
                "seed and video alone. Did the video change, or its frame count?"
            )
