"""Deleting a set whole, so that nothing is left that vouches for bytes which are gone."""

from __future__ import annotations

from pipeline.storage import schema
from pipeline.storage.backend import StorageBackend
from pipeline.storage.locks import exclusive
from pipeline.storage.spare import spare_key


def drop_feature_set(backend: StorageBackend, dataset: str, crops: str, name: str) -> int:
    """Delete a feature set, and the geometry of its crop set where no other set shares it.

    It leaves answers first, its ledger next, its arrays last: whoever is killed leaves bytes that nothing vouches for,
    and goes on by the same call.

    Returns
    -------
    int
        Bytes that went; 0 where nothing was there.
    """
    folder, ledger = schema.feature_set_key(dataset, crops, name), schema.feature_ledger_key(dataset, crops, name)
    crop_set, group = schema.crop_set_key(dataset, crops), f"{folder}/{schema.ZARR_JSON}"
    with exclusive(backend, crop_set):
        sizes = _files(backend, ledger) | _files(backend, folder)
        others = [other for other in backend.folders(f"{crop_set}/ledger") if other != name]
        if not any(_files(backend, f"{crop_set}/ledger/{other}") for other in others):
            geometry = _files(backend, schema.geometry_key(dataset, crops))
            sizes |= {key: size for key, size in geometry.items() if schema.shard_of(key) is not None}
        for key in (spare_key(group), group, *sizes):
            backend.delete(key)
    return sum(sizes.values())


def leftover_ledgers(backend: StorageBackend, dataset: str) -> list[tuple[str, str]]:
    """Return (crop set, name) of ledgers with entries whose feature set is not there: somebody deleted its folder."""
    found = []
    for crops in backend.folders(f"{dataset}/crops"):
        crop_set = schema.crop_set_key(dataset, crops)
        for name in backend.folders(f"{crop_set}/ledger"):
            group = f"{schema.feature_set_key(dataset, crops, name)}/{schema.ZARR_JSON}"
            is_there = backend.exists(group) or has_shards(backend, schema.feature_set_key(dataset, crops, name))
            if not is_there and _files(backend, f"{crop_set}/ledger/{name}"):
                found.append((crops, name))
    return found


def clear_leftover_ledger(backend: StorageBackend, ledger: str, folder: str) -> int:
    """Delete the entries of a set that is made anew, if its arrays are gone: they vouch for nothing. Returns how many.

    Where shards are there, nothing is touched: the entries may be all that is known of them.
    """
    if has_shards(backend, folder):
        return 0
    keys = [key for key in _files(backend, ledger) if key.endswith(".parquet") or "/_previous/" in key]
    for key in keys:
        backend.delete(key)
    return len(keys)


def forget_deleted_set(backend: StorageBackend, crop_set: str, ledger: str, folder: str) -> None:
    """Take away what vouches for a feature set whose whole folder somebody deleted: its ledger, the copy of its group.

    Where anything of the folder is left it is damage, not a deletion, and nothing is touched.
    """
    group = f"{folder}/{schema.ZARR_JSON}"
    if backend.exists(group) or not backend.exists(spare_key(group)):
        return
    with exclusive(backend, crop_set):
        if not backend.list(folder):
            clear_leftover_ledger(backend, ledger, folder)
            backend.delete(spare_key(group))


def has_shards(backend: StorageBackend, folder: str) -> bool:
    """Whether the arrays of a set have any shard."""
    return any(schema.shard_of(key) is not None for key, _ in backend.list(f"{folder}/values", recursive=False))


def _files(backend: StorageBackend, folder: str) -> dict[str, int]:
    return {key: size for key, size in backend.list(folder) if "/_lock/" not in key}
