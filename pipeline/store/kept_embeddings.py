"""Older versions of embedding sets: what is replaced stays as a set of its own, ``NAME@1``, ``NAME@2`` ..."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import AlreadyExistsError, NotFoundError
from pipeline.sets.ledger_entry import RowStatus
from pipeline.store.artifacts import split_version

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset

_NUMBER = re.compile(r"[1-9][0-9]*\Z")


def older_embeddings(ds: Dataset, name: str) -> list[str]:
    """Return the kept versions of an embedding set, oldest first: ``["scale@1", "scale@2"]``."""
    pairs = ((one, *split_version(one)) for one in ds.embedding_sets())
    numbers = sorted(int(version) for _, base, version in pairs if base == name and _NUMBER.match(version))
    return [f"{name}@{number}" for number in numbers]


def keep_embeddings(ds: Dataset, name: str) -> str | None:
    """Copy an embedding set to the next version's name, before it is replaced; None where there is none.

    May be interrupted: the next call goes on where it stopped. What cannot be read is not kept.

    Raises
    ------
    CorruptDataError
        If the set's bytes are not what was written.
    """
    ds = ds.refresh()
    try:
        info = ds.embedding_info(name)
    except NotFoundError:
        return None
    older = older_embeddings(ds, name)
    begun = [one for one in older if ds.embedding_info(one).fingerprint_id == info.fingerprint_id]
    kept = begun[-1] if begun else f"{name}@{info.version}"
    writer = ds.embedding_writer(kept, info.fingerprint, info.dim, str(info.dtype), attrs=info.attrs)
    ledger = ds.ledger(None, name)
    for shard in ledger.generations:
        entry = ledger.entry(shard)
        if entry is None:
            continue
        for task in writer.todo(shards=[shard]):
            block = ds.select(rows=task.rows).embeddings(name)
            lines = ds.status_of(None, name, task.rows).to_pylist()
            rows = [RowStatus(s["row"], s["status"], s["error"], s["attempts"], s["seconds"]) for s in lines]
            valid = np.asarray(block.valid, bool)
            values = np.where(valid[:, None], block.values, 0).astype(info.dtype)
            try:
                writer.write(task, values, valid, rows, device=entry.device, versions=entry.versions)
            except AlreadyExistsError:
                continue  # another run keeps it, too
    return kept
