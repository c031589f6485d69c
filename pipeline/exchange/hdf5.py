"""Features of a selection as one HDF5 file, for tools that read HDF5.

The file holds ``values`` (n, V, D), ``valid`` (n, V), ``geometry`` (n, V, 9), ``row``, ``video_id``, ``label`` and
``status`` (fixed-length UTF-8), the catalogue of the rows as Parquet bytes (``catalogue_parquet``), and where it all
came from as JSON bytes (``provenance_json``: an attribute could hold 64 KiB at most).
:mod:`pipeline.exchange.hdf5_import` reads it back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.exchange.formats import writes
from pipeline.exchange.origin import provenance, shard_blocks
from pipeline.storage.schema import GEOMETRY_COLUMNS
from pipeline.storage.whole_file import whole_file

if TYPE_CHECKING:
    from pipeline.sets.handles import SelectionHandle

KIND = "scale-feature-export"
VERSION = 1


@writes(".h5", ".hdf5")
def export_hdf5(selection: SelectionHandle, path: str | Path, crops: str, feature_set: str) -> Path:
    """Write the features of a selection to an HDF5 file.

    Parameters
    ----------
    selection : Selection
        Rows to write; those without committed features are zeros with ``valid`` False and status ``pending``.
    path : str or Path
        Written whole: it appears when it is complete.
    crops, feature_set : str
        Which features.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    NotFoundError
        If there is no such set.
    InvalidInputError, SetupError, StorageError
        If the file cannot be written.
    """
    import h5py

    dataset = selection.dataset
    info = dataset.feature_info(crops, feature_set)
    n, num_crops, dim = len(selection), info.num_crops, info.dim
    origin = provenance(selection, crops, feature_set)
    with whole_file(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "values": ((n, num_crops, dim), info.dtype),
            "valid": ((n, num_crops), np.bool_),
            "geometry": ((n, num_crops, len(GEOMETRY_COLUMNS)), np.float32),
        }
        arrays = {name: file.create_dataset(name, shape, dtype) for name, (shape, dtype) in shapes.items()}
        start = 0
        for block in shard_blocks(selection, crops, feature_set):
            stop = start + len(block)
            for name, array in arrays.items():
                array[start:stop] = getattr(block, name)
            start = stop
        videos = selection.videos
        file.create_dataset("row", data=selection.rows)
        for name in ("video_id", "label"):
            file.create_dataset(name, data=_fixed_utf8(videos[name]))
        of_rows = dataset.status_of(crops, feature_set, selection.rows)
        file.create_dataset("status", data=_fixed_utf8(of_rows["status"]))
        file.create_dataset("error", data=_fixed_utf8(of_rows["error"]))
        sink = pa.BufferOutputStream()
        pq.write_table(videos, sink)
        file.create_dataset("catalogue_parquet", data=np.frombuffer(sink.getvalue(), np.uint8))
        file.attrs["kind"] = KIND
        file.attrs["version"] = VERSION
        file.create_dataset("provenance_json", data=np.frombuffer(json.dumps(origin).encode(), np.uint8))
        file["geometry"].attrs["columns"] = np.array(GEOMETRY_COLUMNS, dtype="S")
    return Path(path)


def _fixed_utf8(column: pa.ChunkedArray) -> np.ndarray:
    """Return a text column as fixed-length bytes marked as UTF-8; nulls become empty."""
    import h5py

    texts = [(value or "").encode() for value in column.to_pylist()]
    width = max((len(text) for text in texts), default=0) or 1
    return np.array(texts, dtype=h5py.string_dtype("utf-8", width))
