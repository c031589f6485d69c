"""Making a feature set or an embedding set, opening it for writing, and dropping one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.errors import FingerprintMismatchError, NotFoundError
from pipeline.fingerprint import canonical_json, check_same
from pipeline.fingerprint import fingerprint as hash_of
from pipeline.sets.arrays import create_group, group_key, mend_group, read_group, write_array_metadata
from pipeline.sets.set_files import SetSpec
from pipeline.storage import schema
from pipeline.storage.backend import StorageBackend
from pipeline.storage.litter import sweep
from pipeline.storage.locks import exclusive
from pipeline.storage.spare import is_there, spare_key
from pipeline.store.catalogue import Catalogue
from pipeline.store.dropping import clear_leftover_ledger, forget_deleted_set


def open_or_create_set(
    backend: StorageBackend,
    dataset: str,
    spec: SetSpec,
    attributes: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the attributes of a set; make its arrays, then its group, when there is none.

    Parameters
    ----------
    attributes : mapping
        Kind, versions and what else a new group gets.
    fingerprint : mapping
        For a new group; an existing one keeps its own, and the caller compares them.

    Raises
    ------
    FingerprintMismatchError
        If the set is there with another width, dtype or number of rows a shard.
    """
    kind = attributes["kind"]
    num_rows = Catalogue(backend, dataset).num_rows
    content = json.loads(canonical_json(dict(fingerprint)))
    if spec.crop_set is None:
        create_group(backend, f"{dataset}/embeddings", {})
    else:
        forget_deleted_set(backend, spec.crop_set, spec.ledger, spec.group)
    sweep(backend, spec.group, spec.ledger)
    try:
        stored = read_group(backend, spec.group, kind)
    except NotFoundError:
        with exclusive(backend, spec.crop_set or spec.ledger):
            if not is_there(backend, f"{spec.group}/{schema.ZARR_JSON}"):
                clear_leftover_ledger(backend, spec.ledger, spec.group)
                for array in spec.arrays:
                    write_array_metadata(
                        backend, array.key, array.layout, num_rows, array.dimension_names,
                        replace_other=array.name != "geometry",
                    )  # fmt: skip
                sizes = {"dim": spec.dim, "dtype": spec.dtype, "shard_rows": spec.shard_rows}
                made = {"fingerprint": content, "fingerprint_id": hash_of(content), **sizes}
                create_group(backend, spec.group, {**attributes, **made})
        stored = read_group(backend, spec.group, kind)
    else:
        with exclusive(backend, spec.crop_set or spec.ledger):
            mend_group(backend, spec.group, kind)
            for array in spec.arrays:
                write_array_metadata(backend, array.key, array.layout, num_rows, array.dimension_names)
    found = (stored.get("dim"), stored.get("dtype"), stored.get("shard_rows"))
    if found != (spec.dim, spec.dtype, spec.shard_rows):
        check_same(stored["fingerprint"], content, what=spec.label)  # names the reason where it can
        raise FingerprintMismatchError(
            f"{spec.label}: expected dim, dtype, shard_rows = {found} as stored, offered "
            f"{(spec.dim, spec.dtype, spec.shard_rows)}; use another name",
            fields=("dim", "dtype"),
        )
    return stored


def drop_embedding_set(backend: StorageBackend, dataset: str, name: str) -> None:
    """Remove an embedding set with its ledger; nothing happens when it is not there."""
    folder, ledger = schema.embedding_set_key(dataset, name), schema.embedding_ledger_key(dataset, name)
    group = group_key(folder)
    if not is_there(backend, group) and not backend.list(folder):
        return
    with exclusive(backend, ledger):
        for key, _ in backend.list(ledger):  # first: without entries nothing of it counts any more, wherever this ends
            if "/_lock/" not in key:
                backend.delete(key)
        backend.delete(spare_key(group))
        backend.delete(group)
        for key, _ in backend.list(folder):
            if "/_lock/" not in key:
                backend.delete(key)
