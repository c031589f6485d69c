"""Zarr v3 metadata of the store's groups and arrays: written plainly, read with suspicion."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pipeline.errors import AlreadyExistsError, CorruptDataError, NotFoundError, SchemaVersionError
from pipeline.fingerprint import canonical_json
from pipeline.storage.backend import StorageBackend
from pipeline.storage.layout import ArrayLayout, default_chunk_rows
from pipeline.storage.schema import SCHEMA_VERSION, ZARR_JSON
from pipeline.storage.shardfile import crc32c
from pipeline.storage.spare import mend, read_small, read_spared, spare_key

SEAL = "seal_crc32c"
"""Attribute with the crc32c of the canonical JSON of all other attributes."""

_DTYPES = {"float16": "<f2", "float32": "<f4", "bool": "|b1"}


def make_layout(row_shape: tuple[int, ...], dtype: str, shard_rows: int) -> ArrayLayout:
    """Return the layout that a new array gets."""
    kind = np.dtype(_DTYPES[dtype])
    row_bytes = int(np.prod(row_shape, dtype=object)) * kind.itemsize if row_shape else kind.itemsize
    return ArrayLayout(row_shape, kind, shard_rows, default_chunk_rows(row_bytes, shard_rows))


def array_json(layout: ArrayLayout, num_rows: int, dimension_names: tuple[str, ...]) -> bytes:
    """Return the ``zarr.json`` of an array: uncompressed chunks with a crc32c, sharded by whole rows."""
    dtype = "bool" if layout.dtype.kind == "b" else layout.dtype.name
    checked = [{"name": "crc32c"}]
    if layout.dtype.itemsize > 1:
        little = {"name": "bytes", "configuration": {"endian": "little"}}
    else:
        little = {"name": "bytes"}
    index_codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, *checked]
    content = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [num_rows, *layout.row_shape],
        "data_type": dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [layout.shard_rows, *layout.row_shape]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": False if dtype == "bool" else "NaN",
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [layout.chunk_rows, *layout.row_shape],
                    "codecs": [little, *checked],
                    "index_codecs": index_codecs,
                    "index_location": "end",
                },
            }
        ],
        "attributes": {},
        "dimension_names": list(dimension_names),
        "storage_transformers": [],
    }
    return json.dumps(content, indent=1).encode()


def group_json(attributes: dict[str, Any]) -> bytes:
    """Return the ``zarr.json`` of a group, its attributes sealed by a checksum."""
    sealed = dict(attributes)
    if attributes:
        sealed[SEAL] = crc32c(canonical_json(attributes).encode())
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": sealed}, indent=1).encode()


def read_json(backend: StorageBackend, key: str) -> dict[str, Any]:
    """Read a ``zarr.json``.

    Raises
    ------
    NotFoundError
        If it is not there.
    CorruptDataError
        If it is not a JSON object, or too large to be one of ours.
    """
    return parse_json(read_small(backend, key), what=key)


def parse_json(raw: bytes, *, what: str) -> dict[str, Any]:
    """Return the JSON object in some bytes; CorruptDataError where there is none."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise CorruptDataError(f"{what}: expected JSON, found something else: {err}") from err
    if not isinstance(content, dict):
        raise CorruptDataError(f"{what}: expected a JSON object, found {type(content).__name__}")
    return content


def group_key(folder: str) -> str:
    """Return the key of a group's ``zarr.json``; ``""`` is the root."""
    return f"{folder}/{ZARR_JSON}" if folder else ZARR_JSON


def read_group(backend: StorageBackend, folder: str, kind: str) -> dict[str, Any]:
    """Return the attributes of one of our groups, or of its spare copy where the file is gone or damaged.

    Raises
    ------
    NotFoundError
        If there is no such group.
    SchemaVersionError
        If a newer version of this project wrote it.
    CorruptDataError
        If the seal does not hold, or the group is of another kind or place.
    """
    return read_spared(backend, group_key(folder), lambda raw: parse_group(raw, folder, kind, where=backend.url))


def parse_group(raw: bytes, folder: str, kind: str, *, where: str) -> dict[str, Any]:
    """Return the attributes in a group's ``zarr.json``; raises as :func:`read_group`."""
    key = group_key(folder)
    content = parse_json(raw, what=key)
    attributes = content.get("attributes")
    if content.get("node_type") != "group" or not isinstance(attributes, dict) or "kind" not in attributes:
        raise CorruptDataError(f"{key}: expected a group written by this project, found another Zarr node")
    version = attributes.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{where}: expected schema version {SCHEMA_VERSION} or older, found {version}, written by "
            f"scale-pipeline {attributes.get('written_by', '(unknown)')}; install that version or a newer one"
        )
    plain = {name: value for name, value in attributes.items() if name != SEAL}
    if attributes.get(SEAL) != crc32c(canonical_json(plain).encode()) or plain["kind"] != kind:
        raise CorruptDataError(
            f"{key}: expected the attributes of a {kind} with a valid seal, found others; "
            "the file was damaged or edited by hand"
        )
    if plain.get("place", folder) != folder:  # schema 1 did not say
        raise CorruptDataError(
            f"{key}: expected the group {folder!r}, found that of {plain['place']!r}: a misplaced file"
        )
    return plain


def check_writable_schema(version: object, url: str) -> None:
    """Raise :class:`SchemaVersionError` unless a store of this schema version can be written as it is."""
    if version != SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{url}: expected a store of schema {SCHEMA_VERSION} to write to, found schema {version}; run "
            f"`scale upgrade {url}` first. It adds files, changes no stored value, and may be interrupted and run again"
        )


def create_group(backend: StorageBackend, folder: str, attributes: dict[str, Any]) -> bool:
    """Create a group, and its spare copy where it has attributes, unless it is there; return whether this call made it.

    A group of which only one of the two is whole gets the other back.
    """
    key = group_key(folder)
    if not attributes:  # only there for who walks the tree with plain zarr
        return _create(backend, key, group_json({}))
    if mend_group(backend, folder, attributes["kind"]) or backend.exists(key):
        return False
    data = group_json({**attributes, "place": folder})
    made = _create(backend, key, data)
    if made:
        _create(backend, spare_key(key), data)
    return made


def mend_group(backend: StorageBackend, folder: str, kind: str) -> bool:
    """Put a group back from its copy, or its copy from the group; see :func:`pipeline.storage.spare.mend`."""
    return mend(backend, group_key(folder), lambda raw: parse_group(raw, folder, kind, where=backend.url))


def is_group(backend: StorageBackend, folder: str, kind: str) -> bool:
    """Return whether there is such a group, whole or damaged, or at least a good copy of it."""
    key = group_key(folder)
    if backend.exists(key):
        return True
    try:
        parse_group(read_small(backend, spare_key(key)), folder, kind, where=backend.url)
    except (NotFoundError, CorruptDataError):
        return False
    return True


def _create(backend: StorageBackend, key: str, data: bytes) -> bool:
    if backend.exists(key):
        return False
    try:
        backend.create(key, data)
    except AlreadyExistsError:
        return False
    return True


def write_array_metadata(
    backend: StorageBackend,
    folder: str,
    layout: ArrayLayout,
    num_rows: int,
    dimension_names: tuple[str, ...],
    *,
    replace_other: bool = False,
) -> None:
    """Create an array, or grow it to `num_rows`; it never shrinks. Call under a lock.

    Parameters
    ----------
    replace_other : bool
        Replace what is there even if it is of another shape: the leftover of a set that was never finished.
    """
    key = f"{folder}/{ZARR_JSON}"
    try:
        stored, rows = read_layout(backend, folder)
    except (NotFoundError, CorruptDataError):
        stored, rows, replace_other = None, 0, True
    if replace_other and stored != layout:
        backend.put(key, array_json(layout, num_rows, dimension_names))
    elif stored is not None and rows < num_rows and stored.row_shape == layout.row_shape:
        backend.put(key, array_json(stored, num_rows, dimension_names))


def read_layout(backend: StorageBackend, folder: str) -> tuple[ArrayLayout | None, int]:
    """Return how an array lies, and its number of rows.

    Returns
    -------
    layout : ArrayLayout or None
        None where the array is a valid one that only zarr can read: compressed, or chunked another way.
    num_rows : int

    Raises
    ------
    CorruptDataError
        If the metadata contradicts itself or claims an impossible size.
    """
    key = f"{folder}/{ZARR_JSON}"
    content = read_json(backend, key)
    try:
        shape = [int(n) for n in content["shape"]]
        outer = [int(n) for n in content["chunk_grid"]["configuration"]["chunk_shape"]]
        codecs = content["codecs"]
        dtype = content["data_type"]
        separator = content["chunk_key_encoding"]["configuration"]["separator"]
        if content["zarr_format"] != 3 or content["node_type"] != "array" or len(outer) != len(shape) or not shape:
            raise ValueError("not a Zarr v3 array")
        if any(n < 0 for n in shape) or any(n < 1 for n in outer):
            raise ValueError(f"impossible shape {shape} in shards of {outer}")
        plain = (
            len(codecs) == 1
            and codecs[0]["name"] == "sharding_indexed"
            and [c["name"] for c in codecs[0]["configuration"]["codecs"]] == ["bytes", "crc32c"]
            and [c["name"] for c in codecs[0]["configuration"]["index_codecs"]] == ["bytes", "crc32c"]
            and all(
                c.get("configuration", {}).get("endian", "little") == "little"
                for name in ("codecs", "index_codecs")
                for c in codecs[0]["configuration"][name]
            )
            and codecs[0]["configuration"].get("index_location", "end") == "end"
            and isinstance(dtype, str)
            and dtype in _DTYPES
            and content["chunk_key_encoding"]["name"] == "default"
            and separator == "."
            and outer[1:] == shape[1:]
        )
        if not plain:
            return None, shape[0]
        inner = [int(n) for n in codecs[0]["configuration"]["chunk_shape"]]
        if inner[1:] != shape[1:]:
            return None, shape[0]
        return ArrayLayout(tuple(shape[1:]), np.dtype(_DTYPES[dtype]), outer[0], inner[0]), shape[0]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as err:
        raise CorruptDataError(f"{key}: expected the metadata of a Zarr v3 array, found something else: {err}") from err
