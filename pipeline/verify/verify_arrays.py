"""Checking the ``zarr.json`` of an array: word for word what this project writes, and of a believable length.

What is damaged there must not be mistaken for damaged shards, or a repair would drop good rows: the layout that the
committed bytes can be read with is the right one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from pipeline.errors import CorruptDataError, NotFoundError, PipelineError
from pipeline.sets.arrays import array_json, parse_json
from pipeline.sets.ledger_entry import LedgerEntry
from pipeline.sets.mapped import ShardRows, open_shard
from pipeline.sets.set_files import ArraySpec, SetSpec, stored_layout
from pipeline.storage.layout import ArrayLayout
from pipeline.storage.locks import exclusive
from pipeline.storage.schema import ZARR_JSON
from pipeline.storage.shardfile import row_checksums
from pipeline.store.video_rows import VideoRows
from pipeline.verify.findings import Findings, read_or_say

MAX_TRIED = 3
"""Shards that are tried to find out which layout is the right one."""


def check_array(
    findings: Findings,
    spec: SetSpec,
    array: ArraySpec,
    tried: Sequence[LedgerEntry],
    needed: int,
    binding: VideoRows | None,
) -> ArrayLayout | None:
    """Check an array's metadata, write it again where it is damaged; return its layout (None: as zarr reads it).

    Parameters
    ----------
    tried : sequence of LedgerEntry
        Some of those in force whose rows have values.
    needed : int
        The row after the last that the ledger knows.
    binding : VideoRows or None
        None where the catalogue is damaged: then no length is too great.
    """
    key = f"{array.key}/{ZARR_JSON}"
    data, why = read_or_say(findings.backend, key)
    rows, stored, is_ours = 0, None, False
    if data is not None:
        try:
            rows = _num_rows(data, key)
            stored = stored_layout(findings.backend, spec, array)
            is_ours = stored is not None and _says(data, stored, rows, array)
        except PipelineError as err:
            why = str(err)
    layout: ArrayLayout | None = array.layout
    if not why:
        if _reads(findings, array, stored, tried):
            layout, why = stored, "" if is_ours or stored is None else "not word for word what was written"
        elif not _reads(findings, array, array.layout, tried) and is_ours:
            layout = stored  # the shards are what is wrong
        else:
            why = "expected the layout that the committed bytes have, found another"
    if not why and rows < needed:
        why = f"its shape ends at row {rows}, the ledger at {needed}"
    if not why and binding is not None and not binding.covers(rows):
        why = f"its shape has {rows} rows, more than the catalogue has videos"
    if why:
        fixed = ""
        if findings.repair:
            with exclusive(findings.backend, spec.crop_set or spec.ledger):
                believable = rows if binding is not None and binding.covers(rows) else 0
                again = array_json(layout or array.layout, max(needed, believable), array.dimension_names)
                fixed = f"written again{findings.put(key, again)}"
        findings.add("damaged metadata", array.key, why, fixed)
    return layout


def _num_rows(data: bytes, key: str) -> int:
    shape = parse_json(data, what=key).get("shape")
    if not isinstance(shape, list) or not shape or not isinstance(shape[0], int) or shape[0] < 0:
        raise CorruptDataError(f"{key}: expected the shape of an array, found {shape!r}")
    return shape[0]


def _says(data: bytes, layout: ArrayLayout, rows: int, array: ArraySpec) -> bool:
    return bool(json.loads(data) == json.loads(array_json(layout, rows, array.dimension_names)))


def _reads(findings: Findings, array: ArraySpec, layout: ArrayLayout | None, tried: Sequence[LedgerEntry]) -> bool:
    """Whether one of some shards reads, under a layout, as its entry says. Where none is tried, it may be."""
    for entry in tried:
        try:
            rows = open_shard(findings.backend, array.key, layout, entry.shard, array.layout)
        except (CorruptDataError, NotFoundError):
            continue
        present = np.flatnonzero(entry.num_valid > 0)
        if bad_rows(rows, entry, array.name, present).size < present.size:
            return True
    return not tried and layout is not None


def bad_rows(rows: ShardRows, entry: LedgerEntry, name: str, local: np.ndarray) -> np.ndarray:
    """Return those of the rows whose bytes differ from what the entry vouches for."""
    there = local[local < rows.num_rows]
    found = row_checksums([rows.row(k) for k in there.tolist()])
    return np.concatenate([there[found != entry.checksums(name)[there]], local[local >= rows.num_rows]])
