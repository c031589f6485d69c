"""Looking at everything an untrusted HDF5 file claims before its data is read.

Refused are links that leave the file (external and soft links, external and virtual data), object and variable-length
types, filters that HDF5 would load as plugins, and shapes that the file's own size contradicts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.errors import CorruptDataError, InvalidInputError, NotFoundError, ShapeMismatchError
from pipeline.storage.schema import MAX_CROPS, MAX_DIM, MAX_ROW_BYTES

MAX_ROWS = 1 << 32
MAX_ID_BYTES = 4096
MAX_CHUNK_BYTES = 1 << 28
MAX_RATIO = 2000
"""Most that gzip and its like shrink data by; a larger claim is a bomb, or data that was never written."""
MAX_TEXT_BYTES = 1 << 30
KNOWN_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 32000: "lzf"}


def open_array(file: Any, name: str) -> Any:
    """Return an array of an untrusted file after looking at everything it claims.

    Raises
    ------
    NotFoundError, InvalidInputError
        See :func:`import_hdf5`.
    """
    import h5py

    node = file
    for part in name.strip("/").split("/"):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            known = ", ".join(sorted(file)[:20])
            raise NotFoundError(f"expected an array {name!r} in the file, found none; at the top it has: {known}")
        if not isinstance(link, h5py.HardLink):
            kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
            raise InvalidInputError(
                f"{name}: expected the data itself, found {kind}; copy the data into the file first"
            )
        node = node[part]
    if not isinstance(node, h5py.Dataset):
        raise InvalidInputError(f"{name}: expected an array, found {type(node).__name__.lower()}")
    if node.external or node.is_virtual:
        raise InvalidInputError(
            f"{name}: expected the data in this file, found it kept in other files; copy it in first"
        )
    if node.dtype.kind not in "fiubS":
        raise InvalidInputError(
            f"{name}: expected numbers or fixed-length texts, found {node.dtype}; "
            "store texts as fixed-length bytes (`ids.astype('S')`)"
        )
    _check_size(node, name)
    return node


def _check_size(node: Any, name: str) -> None:
    shape, itemsize = node.shape, node.dtype.itemsize
    if not 1 <= len(shape) <= 3 or any(size < 1 for size in shape):
        raise ShapeMismatchError(f"{name}: expected 1 to 3 dimensions without an empty one, found shape {shape}")
    row_bytes = itemsize
    for size in shape[1:]:
        row_bytes *= int(size)
    limits = (MAX_ROWS, MAX_CROPS, MAX_DIM) if len(shape) == 3 else (MAX_ROWS, MAX_DIM)
    if row_bytes > MAX_ROW_BYTES or any(size > most for size, most in zip(shape, limits, strict=False)):
        raise InvalidInputError(f"{name}: expected an array of a sensible size, found shape {shape} {node.dtype}")
    properties = node.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if unknown := [code for code in filters if code not in KNOWN_FILTERS]:
        raise InvalidInputError(
            f"{name}: expected no compression or {', '.join(KNOWN_FILTERS.values())}, found filter {unknown[0]}, which "
            "would be loaded as a plugin; rewrite the file with `h5repack -f NONE`"
        )
    if node.chunks is not None and itemsize * int(np.prod(node.chunks, dtype=object)) > MAX_CHUNK_BYTES:
        raise InvalidInputError(f"{name}: expected chunks of at most {MAX_CHUNK_BYTES} bytes, found {node.chunks}")
    claimed, held = row_bytes * int(shape[0]), node.id.get_storage_size()
    if claimed > held * (MAX_RATIO if filters else 1) + 4096:
        raise InvalidInputError(
            f"{name}: expected {claimed} bytes of data for shape {shape}, found {held} bytes in the file; "
            "the shape is forged or the array was never filled"
        )


def read_rows(array: Any, positions: np.ndarray) -> np.ndarray:
    """Read ascending positions; a range where they are one, for HDF5 is slow with lists."""
    first, last = int(positions[0]), int(positions[-1])
    if last - first == len(positions) - 1:
        block = array[first : last + 1]
    elif last - first < 4 * len(positions):
        block = array[first : last + 1][positions - first]
    else:
        block = array[positions]
    return block.astype(bool) if array.dtype.kind in "biu" else block


def read_texts(file: Any, name: str, n: int) -> list[str]:
    """Return `n` fixed-length UTF-8 texts, or numbers as text; CorruptDataError if they are no UTF-8."""
    array = open_array(file, name)
    if array.shape != (n,) or array.dtype.kind not in "Siu":
        raise ShapeMismatchError(f"{name}: expected {n} texts or numbers, found {array.dtype} of shape {array.shape}")
    if array.dtype.itemsize > MAX_ID_BYTES or array.dtype.itemsize * n > MAX_TEXT_BYTES:
        raise InvalidInputError(f"{name}: expected texts of at most {MAX_ID_BYTES} bytes, found {array.dtype}")
    if array.dtype.kind in "iu":
        return [str(value) for value in array[:].tolist()]
    try:
        return [value.decode() for value in array[:].tolist()]
    except UnicodeDecodeError as err:
        raise CorruptDataError(f"{name}: expected UTF-8, found: {err}") from err


def read_bytes(file: Any, name: str) -> bytes:
    """Return a uint8 array as bytes."""
    array = open_array(file, name)
    if array.ndim != 1 or array.dtype != np.uint8 or array.shape[0] > MAX_TEXT_BYTES:
        raise ShapeMismatchError(f"{name}: expected bytes, found {array.dtype} of shape {array.shape}")
    return bytes(array[:].tobytes())
