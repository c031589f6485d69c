"""Features from an HDF5 file: ours (:mod:`pipeline.exchange.hdf5`), or anybody's with the names of its arrays given.

The file is not trusted: every array is opened through :mod:`pipeline.exchange.hdf5_guard`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import CorruptDataError, InvalidInputError, NotFoundError, ShapeMismatchError
from pipeline.exchange.hdf5 import KIND, VERSION
from pipeline.exchange.hdf5_guard import open_array, read_bytes, read_rows, read_texts
from pipeline.exchange.imports import ForeignFeatures, ImportReport, import_features
from pipeline.fingerprint import hash_file
from pipeline.recipe.crops import CropPolicy, CropPolicyBase, ImportedPolicy
from pipeline.sets.set_files import check_sizes
from pipeline.status import VideoStatus
from pipeline.storage.parquet import read_parquet
from pipeline.storage.schema import CATALOGUE_SCHEMA, GEOMETRY_COLUMNS, MAX_SHARD_ROWS

if TYPE_CHECKING:
    from pipeline.sets.handles import StoreHandle

NAMES = ("values", "valid", "geometry", "video_id", "label", "group")
SPLIT = "split"
"""Names that begin so are splits: `split` is "1", `split2` is "2"."""
_SIDES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def import_hdf5(
    store: StoreHandle,
    path: str | Path,
    *,
    dataset: str | None = None,
    crops: str | None = None,
    feature_set: str | None = None,
    names: Mapping[str, str] | None = None,
    dtype: str | None = None,
    shard_rows: int | None = None,
) -> ImportReport:
    """Import features from an HDF5 file; labels, splits and groups come along where it holds them.

    Parameters
    ----------
    store : FeatureStore
        Open for writing.
    path : str or Path
    dataset, crops, feature_set : str, optional
        Names in the store. An exported file remembers its own; a foreign one must be given them.
    names : mapping, optional
        What a foreign file calls ``values`` (n, V, D) or (n, D), ``video_id`` (n,), and, where it has them, ``valid``
        (n, V), ``geometry`` (n, V, 9) in raw units, ``label``, ``group`` and ``split``, ``split2`` ... (n,). Texts must
        be of fixed length.
    dtype : {"float16", "float32"}, optional
        How to store the values; as they are in the file, unless given.
    shard_rows : int, optional
        For a new dataset; as in the file's own origin, unless given.

    Returns
    -------
    ImportReport

    Raises
    ------
    NotFoundError
        No such file, or no such array in it.
    CorruptDataError
        Not HDF5, or damaged.
    InvalidInputError
        The file uses what an untrusted file may not, or names are missing.
    ShapeMismatchError
        Its arrays do not fit each other.
    """
    with _opened(path) as file:
        ours = _attribute(file, "kind") == KIND
        if ours and _attribute(file, "version") not in (VERSION, str(VERSION)):
            raise InvalidInputError(f"expected an export of version {VERSION}, found {_attribute(file, 'version')!r}")
        if unknown := sorted(name for name in names or {} if name not in NAMES and not name.startswith(SPLIT)):
            raise InvalidInputError(f"expected names of {', '.join(NAMES)}, split..., found {', '.join(unknown)}")
        origin = _origin(file) if ours else {}
        chosen = {
            "dataset": dataset or origin.get("dataset"),
            "crops": crops or origin.get("crops"),
            "feature_set": feature_set or origin.get("feature_set"),
        }
        if missing := [name for name, value in chosen.items() if not isinstance(value, str)]:
            raise InvalidInputError(
                f"{path}: expected names for {', '.join(missing)} (this file does not say), found none; give them"
            )
        source = _source(file, Path(path), origin, dict(names or {}), dtype, str(chosen["feature_set"]))
        return import_features(
            store,
            source,
            dataset=str(chosen["dataset"]),
            crops=str(chosen["crops"]),
            feature_set=str(chosen["feature_set"]),
            shard_rows=shard_rows or _shard_rows(origin),
        )


def _shard_rows(origin: Mapping[str, Any]) -> int | None:
    """Return how the features lay where they come from; None where the file does not say."""
    found = origin.get("shard_rows")
    return found if type(found) is int and 1 <= found <= MAX_SHARD_ROWS else None


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    import h5py

    if not Path(path).is_file():
        raise NotFoundError(f"expected an HDF5 file at {path}, found none")
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError) as err:  # h5py's errors for damaged structures
        if isinstance(err, NotFoundError):
            raise
        raise CorruptDataError(f"{path}: expected a whole HDF5 file, found: {err}") from err


def _attribute(file: Any, name: str) -> Any:
    """Return a small scalar attribute as text or number; None where there is none, or something else."""
    if name not in file.attrs:
        return None
    kind = file.attrs.get_id(name)
    if kind.shape != () or kind.get_storage_size() > 1024:
        return None
    value = file.attrs[name]
    return (
        value.decode("utf-8", "replace")
        if isinstance(value, bytes)
        else value
        if isinstance(value, str)
        else int(value)
        if np.issubdtype(type(value), np.integer)
        else None
    )


def _origin(file: Any) -> dict[str, Any]:
    try:
        origin = json.loads(read_bytes(file, "provenance_json"))
    except (ValueError, RecursionError) as err:
        raise CorruptDataError(f"expected JSON in provenance_json, found: {err}") from err
    if not isinstance(origin, dict) or not isinstance(origin.get("fingerprint"), dict):
        raise CorruptDataError("expected provenance_json to hold a fingerprint, found none")
    return origin


def _source(
    file: Any, path: Path, origin: Mapping[str, Any], names: dict[str, str], dtype: str | None, feature_set: str
) -> ForeignFeatures:
    values = open_array(file, names.get("values", "values"))
    if values.dtype.kind != "f" or values.dtype.itemsize not in (2, 4, 8) or values.ndim not in (2, 3):
        raise ShapeMismatchError(
            f"expected values (n, crops, channels) or (n, channels) of floats, found {values.dtype} {values.shape}"
        )
    n, num_crops, dim = values.shape if values.ndim == 3 else (values.shape[0], 1, values.shape[1])
    stored = dtype or ("float16" if values.dtype.itemsize == 2 else "float32")
    check_sizes(num_crops, dim, stored)
    valid = _optional(file, names, "valid", (n, num_crops), "b")
    geometry = _optional(file, names, "geometry", (n, num_crops, len(GEOMETRY_COLUMNS)), "f")
    videos = _catalogue(file, names, n, bool(origin))

    def read(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (len(positions), num_crops)
        block = read_rows(values, positions).reshape(*shape, dim)
        of_valid = np.ones(shape, bool) if valid is None else read_rows(valid, positions)
        if geometry is None:
            return block, of_valid, np.zeros((*shape, len(GEOMETRY_COLUMNS)), np.float32)
        boxes = read_rows(geometry, positions)
        return block, of_valid, np.where(np.isfinite(boxes), boxes, 0)

    return ForeignFeatures(
        videos=videos,
        policy=_policy(origin, num_crops, has_geometry=geometry is not None),
        fingerprint=origin.get("fingerprint")
        or {
            "imported": {"format": "hdf5", "sha256": hash_file(path), "values": names.get("values", "values")},
            "backbone": {"name": feature_set},
            "dtype": stored,
        },
        num_crops=num_crops,
        dim=dim,
        dtype=stored,
        read=read,
        statuses=_statuses(file, n) if origin else None,
        recipe=origin.get("recipe") if isinstance(origin.get("recipe"), dict) else None,
    )


def _policy(origin: Mapping[str, Any], num_crops: int, *, has_geometry: bool) -> CropPolicyBase:
    if "crop_policy" in origin:
        try:
            policy: CropPolicyBase = TypeAdapter(CropPolicy).validate_python(origin["crop_policy"])
        except ValidationError as err:
            raise CorruptDataError(f"expected a crop policy in provenance_json, found: {err}") from err
        return policy
    return ImportedPolicy(
        policy="imported", num_crops=num_crops, source="hdf5", geometry="raw" if has_geometry else "none"
    )


def _catalogue(file: Any, names: Mapping[str, str], n: int, ours: bool) -> pa.Table:
    if ours and "video_id" not in names:
        try:
            table = read_parquet(read_bytes(file, "catalogue_parquet"))
        except (pa.ArrowException, OSError) as err:
            raise CorruptDataError(f"expected Parquet in catalogue_parquet, found: {err}") from err
        if table.num_rows != n or not set(table.column_names) <= set(CATALOGUE_SCHEMA.names):
            raise ShapeMismatchError(f"expected a catalogue of {n} rows, found {table.num_rows} rows or other columns")
        return table
    columns = {"video_id": pa.array(read_texts(file, names.get("video_id", "video_id"), n), pa.string())}
    for name in ("label", "group"):
        if name in names or name in file:
            texts = read_texts(file, names.get(name, name), n)
            columns[name] = pa.array([text or None for text in texts], pa.string())
    given = [name for name in names if name.startswith(SPLIT)] or [name for name in file if name.startswith(SPLIT)]
    if given:
        sides: list[dict[str, str]] = [{} for _ in range(n)]
        for name in given:
            split = name.removeprefix(SPLIT).lstrip("_-") or "1"
            for row, text in zip(sides, read_texts(file, names.get(name, name), n), strict=True):
                if text:
                    row[split] = _side(name, text)
        kind = CATALOGUE_SCHEMA.field("splits").type
        columns["splits"] = pa.array([list(row.items()) for row in sides], kind)
    return pa.table(columns)


def _side(name: str, text: str) -> str:
    side = _SIDES.get(text.strip().lower())
    if side is None:
        raise InvalidInputError(
            f"{name}: expected train, val, test or nothing, found {text[:40]!r}; import without it, then "
            "`scale label STORE --csv`, or `--splits` with a list"
        )
    return side


def _statuses(file: Any, n: int) -> dict[int, tuple[str, str]]:
    known = {str(status) for status in VideoStatus} | {"pending"}
    found = zip(read_texts(file, "status", n), read_texts(file, "error", n), strict=True)
    statuses = dict(enumerate(found))
    if bad := sorted({status for status, _ in statuses.values()} - known):
        raise CorruptDataError(f"expected statuses of {', '.join(sorted(known))}, found {', '.join(bad[:3])!r}")
    return statuses


def _optional(file: Any, names: Mapping[str, str], name: str, shape: tuple[int, ...], kinds: str) -> Any:
    if name not in names and name not in file:
        return None
    array = open_array(file, names.get(name, name))
    found = tuple(array.shape)
    if found != shape or (array.dtype.kind not in kinds and not (kinds == "b" and array.dtype.kind in "iu")):
        raise ShapeMismatchError(f"{name}: expected shape {shape}, found {found} of {array.dtype}")
    return array
