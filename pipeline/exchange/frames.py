"""Selections as data frames: one row a video, splits as columns of their own, features as arrays of one size.

Every tool takes these columns: pandas, polars, Hugging Face `datasets`, Lance, DuckDB, plain Parquet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InvalidInputError, SetupError

if TYPE_CHECKING:
    from pipeline.sets.blocks import FeatureBlock
    from pipeline.sets.handles import SelectionHandle


def to_arrow(selection: SelectionHandle, crops: str | None = None, feature_set: str | None = None) -> pa.Table:
    """Return the selected videos, in their order, as a flat table.

    Parameters
    ----------
    selection : Selection
    crops, feature_set : str, optional
        Take these features along.

    Returns
    -------
    pyarrow.Table
        The catalogue with ``split_<name>`` text columns in place of the map `splits`. With features also `status`,
        `error`, `valid` (list of V bool) and `values` (V lists of D, float32; zeros where `valid` is False).

    Raises
    ------
    NotFoundError
        If there is no such set.
    """
    if (crops is None) != (feature_set is None):
        raise InvalidInputError(f"expected crops and feature_set, or neither; found {crops!r} and {feature_set!r}")
    table = flat_splits(selection.videos)
    if crops is None or feature_set is None:
        return table
    status = selection.with_status(crops, feature_set)
    for name in ("status", "error"):
        table = table.append_column(name, status[name])
    info = selection.dataset.feature_info(crops, feature_set)
    types = {"valid": pa.list_(pa.bool_(), info.num_crops),
             "values": pa.list_(pa.list_(pa.float32(), info.dim), info.num_crops)}  # fmt: skip
    chunks: dict[str, list[pa.Array]] = {"valid": [], "values": []}
    for block in _blocks(selection, crops, feature_set):
        flat = pa.array(block.values.astype(np.float32).ravel())
        per_crop = pa.FixedSizeListArray.from_arrays(flat, info.dim)
        chunks["values"].append(pa.FixedSizeListArray.from_arrays(per_crop, info.num_crops))
        chunks["valid"].append(pa.FixedSizeListArray.from_arrays(pa.array(block.valid.ravel()), info.num_crops))
    for name, parts in chunks.items():
        table = table.append_column(name, pa.chunked_array(parts, types[name]))
    return table


def _blocks(selection: SelectionHandle, crops: str, feature_set: str) -> Iterator[FeatureBlock]:
    if len(selection):
        yield from selection.batches(crops, feature_set, batch_size=selection.dataset.shard_rows, shuffle=False)


def flat_splits(videos: pa.Table) -> pa.Table:
    """Return the catalogue with a text column for every split in place of the map; null where a video is in none."""
    column = videos["splits"]
    names = sorted({name for chunk in column.chunks for name in pc.unique(chunk.keys).to_pylist()})
    at = videos.schema.get_field_index("splits")
    table = videos.remove_column(at)
    for number, name in enumerate(names):
        side = pc.map_lookup(column, pa.scalar(name), "first")
        table = table.add_column(at + number, f"split_{name}", side)
    return table


def to_pandas(selection: SelectionHandle, crops: str | None = None, feature_set: str | None = None) -> Any:
    """Return :func:`to_arrow` as a pandas DataFrame; `values` holds an array (V, D) a video.

    Raises
    ------
    SetupError
        If pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise _absent("pandas") from None
    table = to_arrow(selection, crops, feature_set)
    arrays = [name for name in ("valid", "values") if name in table.column_names]
    frame = pd.DataFrame(table.drop_columns(arrays).to_pandas())
    if arrays and crops is not None and feature_set is not None:
        blocks = list(_blocks(selection, crops, feature_set))
        frame["valid"] = [row for block in blocks for row in block.valid]
        frame["values"] = [row for block in blocks for row in block.values]
    return frame


def to_polars(selection: SelectionHandle, crops: str | None = None, feature_set: str | None = None) -> Any:
    """Return :func:`to_arrow` as a polars DataFrame; `values` is an Array column of shape (V, D).

    Raises
    ------
    SetupError
        If polars is not installed.
    """
    try:
        import polars as pl
    except ImportError:
        raise _absent("polars") from None
    return pl.from_arrow(to_arrow(selection, crops, feature_set))


def _absent(package: str) -> SetupError:
    return SetupError(f"expected the package {package}, found none; `pip install {package}`")
