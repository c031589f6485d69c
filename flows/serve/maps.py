"""The maps that a page can show: those kept in the store, and others that are made once a snapshot and cached."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from flows.serve.stores import HeldDataset
from pipeline.errors import CorruptDataError
from probe.flat_map import MAP_VERSION, FlatMap, make_map, map_bytes, map_sources, parse_map, read_map, source_snapshot

STORED = "map "
"""What a source begins with that names a stored map."""


def shown_sources(held: HeldDataset) -> list[str]:
    """Return what the page can show: stored maps first."""
    return [f"{STORED}{name}" for name in held.dataset.artifacts("maps")] + map_sources(held.dataset)


def map_of(held: HeldDataset, source: str, cache: Path) -> tuple[FlatMap, str | None]:
    """Return a map, and what is to be said of it: that the store has moved on since.

    Raises
    ------
    NotFoundError
        If there is no such source, or no video has a vector.
    CorruptDataError
        If a stored map is damaged.
    """
    ds = held.dataset
    if source.startswith(STORED):
        stored = read_map(ds, source.removeprefix(STORED))
        if stored.source in map_sources(ds) and source_snapshot(ds, stored.source) == stored.snapshot:
            return stored, None
        return stored, f"made of {stored.source} as it stood at snapshot {stored.snapshot[:12]}; `scale map` renews it"
    state = source_snapshot(ds, source)
    digest = hashlib.sha256(f"map-{MAP_VERSION}\n{ds.name}\n{source}\n{state}".encode()).hexdigest()
    file = cache / "maps" / f"{digest}.npz"
    if (kept := _read(file)) is not None:
        return kept, None
    made = make_map(ds, source)
    _write(file, made)
    return made, None


def _read(file: Path) -> FlatMap | None:
    try:
        return parse_map(file.read_bytes(), what=str(file))
    except (OSError, CorruptDataError):
        return None


def _write(file: Path, made: FlatMap) -> None:
    """Keep a map; a cache folder that cannot be written costs time, not the page."""
    partial = file.with_name(f"{file.stem}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(map_bytes(made))
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)
