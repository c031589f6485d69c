"""Results of queries as files for other tools: tables as Parquet or CSV, features as NPZ or HDF5."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline.errors import InvalidInputError
from pipeline.exchange.formats import suffixes, writer_of, writes
from pipeline.exchange.origin import provenance, shard_blocks
from pipeline.query.results import json_rows, json_text, plain_answer
from pipeline.storage.schema import GEOMETRY_COLUMNS
from pipeline.storage.whole_file import whole_file

if TYPE_CHECKING:
    from pipeline.sets.blocks import FeatureBlock
    from pipeline.sets.handles import SelectionHandle

TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")


def write_table(table: pa.Table, path: str | Path) -> Path:
    """Write a table; the format follows the suffix: ``.parquet``, ``.csv`` or ``.jsonl``.

    In CSV, lists, maps and bytes become text (JSON); nulls are empty and texts are quoted. JSON lines are strict JSON:
    what is no number is null. Equal column names are told apart with ``_1``, ``_2``.

    Raises
    ------
    InvalidInputError
        If the suffix is another one.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise InvalidInputError(f"expected a file name that ends in {', '.join(TABLE_SUFFIXES)}, found {path.name!r}")
    table = plain_answer(table)
    with whole_file(path) as temporary:
        if suffix == ".parquet":
            pq.write_table(table, temporary)
        elif suffix == ".csv":
            pa_csv.write_csv(_flat(table), temporary)
        else:
            with temporary.open("w", encoding="utf-8") as file:
                for batch in table.to_batches(1024):
                    file.writelines(json_text(row) + "\n" for row in json_rows(pa.Table.from_batches([batch])))
    return path


def _flat(table: pa.Table) -> pa.Table:
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_nested(column.type):
            texts = [None if row[name] is None else json_text(row[name]) for row in json_rows(pa.table({name: column}))]
            column = pa.array(texts, pa.string())
        elif pa.types.is_binary(column.type):
            column = pa.array([None if value is None else value.hex() for value in column.to_pylist()], pa.string())
        columns.append(column)
    return pa.table(columns, names=table.column_names)


def write_features(selection: SelectionHandle, path: str | Path, crops: str, feature_set: str) -> Path:
    """Write the features of a selection; the format follows the suffix: ``.npz``, ``.h5`` ``.hdf5``, or a table's.

    As a table (``.parquet``, ``.csv``, ``.jsonl``) it is :meth:`Selection.to_arrow`.

    Raises
    ------
    InvalidInputError
        If the suffix is another one.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if (writer := writer_of(suffix)) is not None:
        return writer(selection, path, crops, feature_set)
    if suffix in TABLE_SUFFIXES:
        return write_table(selection.to_arrow(crops, feature_set), path)
    known = ", ".join((*suffixes(), *TABLE_SUFFIXES))
    raise InvalidInputError(f"expected a file name that ends in {known}, found {path.name!r}")


@writes(".npz")
def write_npz(selection: SelectionHandle, path: str | Path, crops: str, feature_set: str) -> Path:
    """Write values, valid, geometry, row, video_id, label, status, error and provenance (JSON) as NPZ.

    ``numpy.load(path)`` opens it without pickle. Memory stays that of one shard, however large the selection.
    """
    path = Path(path)
    info = selection.dataset.feature_info(crops, feature_set)
    n, num_crops, dim = len(selection), info.num_crops, info.dim
    videos, statuses = selection.videos, selection.with_status(crops, feature_set)
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        arrays: dict[str, tuple[tuple[int, ...], Any, Callable[[FeatureBlock], np.ndarray]]] = {
            "values": ((n, num_crops, dim), np.dtype(info.dtype), lambda block: block.values),
            "valid": ((n, num_crops), np.dtype(bool), lambda block: block.valid),
            "geometry": ((n, num_crops, len(GEOMETRY_COLUMNS)), np.dtype(np.float32), lambda block: block.geometry),
        }
        for name, (shape, dtype, part) in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                _write_header(file, shape, dtype)
                for block in shard_blocks(selection, crops, feature_set):
                    file.write(np.ascontiguousarray(part(block)).data.cast("B"))
        small = {
            "row": selection.rows,
            "video_id": text_array(videos["video_id"]),
            "label": text_array(videos["label"]),
            "status": text_array(statuses["status"]),
            "error": text_array(statuses["error"]),
            "geometry_columns": np.array(GEOMETRY_COLUMNS),
            "provenance": np.array(json_text(provenance(selection, crops, feature_set))),
        }
        for name, array in small.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return path


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)


def text_array(column: pa.ChunkedArray) -> np.ndarray:
    """Return a text column as a fixed-width NumPy array; nulls become empty."""
    texts = ["" if value is None else value for value in column.to_pylist()]
    return np.array(texts, dtype=np.str_) if texts else np.empty(0, "<U1")
