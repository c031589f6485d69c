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

MAX_JSON_BYTES = 16 << 20
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
    if backend.is_local and backend.size(key) > MAX_JSON_BYTES:
        raise CorruptDataError(f"{key}: expected at most {MAX_JSON_BYTES} bytes of JSON, found more")
    raw = backend.read(key)
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise CorruptDataError(f"{key}: expected JSON, found something else: {err}") from err
    if not isinstance(content, dict):
        raise CorruptDataError(f"{key}: expected a JSON object, found {type(content).__name__}")
    return content


def read_group(backend: StorageBackend, folder: str, kind: str) -> dict[str, Any]:
    """Return the attributes of one of our groups, their seal and version checked.

    Raises
    ------
    NotFoundError
        If there is no such group.
    SchemaVersionError
        If a newer version of this project wrote it.
    CorruptDataError
        If the seal does not hold, or the group is of another kind.
    """
    key = f"{folder}/{ZARR_JSON}" if folder else ZARR_JSON
    content = read_json(backend, key)
    attributes = content.get("attributes")
    if content.get("node_type") != "group" or not isinstance(attributes, dict) or "kind" not in attributes:
        raise CorruptDataError(f"{key}: expected a group written by this project, found another Zarr node")
    version = attributes.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{backend.url}: expected schema version {SCHEMA_VERSION} or older, found {version}, written by "
            f"scale-pipeline {attributes.get('written_by', '(unknown)')}; install that version or a newer one"
        )
    plain = {name: value for name, value in attributes.items() if name != SEAL}
    if attributes.get(SEAL) != crc32c(canonical_json(plain).encode()) or plain["kind"] != kind:
        raise CorruptDataError(
            f"{key}: expected the attributes of a {kind} with a valid seal, found others; "
            "the file was damaged or edited by hand"
        )
    return plain


def create_group(backend: StorageBackend, folder: str, attributes: dict[str, Any]) -> bool:
    """Create a group unless it is there; return whether this call made it."""
    key = f"{folder}/{ZARR_JSON}" if folder else ZARR_JSON
    if backend.exists(key):
        return False
    try:
        backend.create(key, group_json(attributes))
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
