"""What a feature set or an embedding set is made of: where its arrays lie, how wide they are, how it was made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.errors import CorruptDataError, InvalidInputError, NotFoundError
from pipeline.fingerprint import fingerprint as hash_of
from pipeline.sets.arrays import make_layout, read_group, read_layout
from pipeline.storage import schema
from pipeline.storage.backend import StorageBackend
from pipeline.storage.layout import ArrayLayout
from pipeline.storage.schema import FEATURE_DTYPES, GEOMETRY_COLUMNS, MAX_CROPS, MAX_DIM


@dataclass(frozen=True, slots=True)
class FeatureSetInfo:
    """A feature set at a glance."""

    num_crops: int
    dim: int
    dtype: str
    shard_rows: int
    fingerprint: dict[str, Any]
    fingerprint_id: str
    num_shards: int
    """Shards of the catalogue."""
    num_shards_done: int
    """Shards whose ledger entry covers all their rows."""
    recipe: dict[str, Any] | None
    network: str | None = None
    """How the network was to run that makes it, as who began it decided; None where nothing says."""


@dataclass(frozen=True, slots=True)
class EmbeddingSetInfo:
    """An embedding set at a glance."""

    dim: int
    dtype: str
    shard_rows: int
    fingerprint: dict[str, Any]
    fingerprint_id: str
    num_shards: int
    num_shards_done: int
    attrs: dict[str, Any]
    version: int
    """Counted from 1; the highest is what the name alone stands for."""


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of a set."""

    name: str
    """values, valid or geometry."""
    key: str
    layout: ArrayLayout
    dimension_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetSpec:
    """A feature set (with crops and geometry) or an embedding set (without)."""

    label: str
    """For messages: ``feature set grid5x3/x3d_xs``."""
    group: str
    ledger: str
    arrays: tuple[ArraySpec, ...]
    """values, valid, and geometry where there is one."""
    shard_rows: int
    num_crops: int | None
    dim: int
    dtype: str
    crop_set: str | None = None
    """Folder of the crop set, whose geometry is shared."""

    def array(self, name: str) -> ArraySpec:
        """Return one array by name."""
        return next(a for a in self.arrays if a.name == name)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in all arrays."""
        return sum(a.layout.row_bytes for a in self.arrays)


def feature_set_spec(
    dataset: str, crops: str, name: str, *, num_crops: int, dim: int, dtype: str, shard_rows: int
) -> SetSpec:
    """Return the arrays of a feature set, as this version writes them."""
    check_sizes(num_crops, dim, dtype)
    group = schema.feature_set_key(dataset, crops, name)
    values = make_layout((num_crops, dim), dtype, shard_rows)
    valid = make_layout((num_crops,), "bool", shard_rows)
    geometry = make_layout((num_crops, len(GEOMETRY_COLUMNS)), "float32", shard_rows)
    return SetSpec(
        label=f"feature set {crops}/{name} of dataset {dataset}",
        group=group,
        ledger=schema.feature_ledger_key(dataset, crops, name),
        arrays=(
            ArraySpec("values", f"{group}/values", values, ("row", "crop", "channel")),
            ArraySpec("valid", f"{group}/valid", valid, ("row", "crop")),
            ArraySpec("geometry", schema.geometry_key(dataset, crops), geometry, ("row", "crop", "column")),
        ),
        shard_rows=shard_rows,
        num_crops=num_crops,
        dim=dim,
        dtype=dtype,
        crop_set=schema.crop_set_key(dataset, crops),
    )


def embedding_set_spec(dataset: str, name: str, *, dim: int, dtype: str, shard_rows: int) -> SetSpec:
    """Return the arrays of an embedding set, as this version writes them."""
    check_sizes(1, dim, dtype)
    group = schema.embedding_set_key(dataset, name)
    return SetSpec(
        label=f"embedding set {name} of dataset {dataset}",
        group=group,
        ledger=schema.embedding_ledger_key(dataset, name),
        arrays=(
            ArraySpec("values", f"{group}/values", make_layout((dim,), dtype, shard_rows), ("row", "channel")),
            ArraySpec("valid", f"{group}/valid", make_layout((), "bool", shard_rows), ("row",)),
        ),
        shard_rows=shard_rows,
        num_crops=None,
        dim=dim,
        dtype=dtype,
    )


def check_sizes(num_crops: int, dim: int, dtype: str) -> None:
    """Refuse sizes that no set can have.

    Raises
    ------
    InvalidInputError
        With what was expected.
    """
    if not 1 <= num_crops <= MAX_CROPS or not 1 <= dim <= MAX_DIM or dtype not in FEATURE_DTYPES:
        raise InvalidInputError(
            f"expected 1..{MAX_CROPS} crops of 1..{MAX_DIM} channels in {' or '.join(FEATURE_DTYPES)}, "
            f"found {num_crops} x {dim} in {dtype}"
        )


def open_feature_set(backend: StorageBackend, dataset: str, crops: str, name: str) -> tuple[SetSpec, dict[str, Any]]:
    """Return a stored feature set's spec and attributes, everything it says about itself checked."""
    attributes = read_group(backend, schema.feature_set_key(dataset, crops, name), "feature_set")
    return feature_set_of(attributes, dataset, crops, name), attributes


def feature_set_of(attributes: dict[str, Any], dataset: str, crops: str, name: str) -> SetSpec:
    """Return the spec that a feature set's attributes tell of; CorruptDataError where they contradict themselves."""
    try:
        spec = feature_set_spec(
            dataset, crops, name, num_crops=int(attributes["num_crops"]), dim=int(attributes["dim"]),
            dtype=str(attributes["dtype"]), shard_rows=int(attributes["shard_rows"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as err:
        raise CorruptDataError(f"feature set {crops}/{name}: expected its sizes, found: {err}") from err
    _check_fingerprint(attributes, spec.label)
    return spec


def open_embedding_set(backend: StorageBackend, dataset: str, name: str) -> tuple[SetSpec, dict[str, Any]]:
    """Return a stored embedding set's spec and attributes."""
    attributes = read_group(backend, schema.embedding_set_key(dataset, name), "embedding_set")
    return embedding_set_of(attributes, dataset, name), attributes


def embedding_set_of(attributes: dict[str, Any], dataset: str, name: str) -> SetSpec:
    """Return the spec that an embedding set's attributes tell of; as :func:`feature_set_of`."""
    try:
        spec = embedding_set_spec(
            dataset, name, dim=int(attributes["dim"]), dtype=str(attributes["dtype"]),
            shard_rows=int(attributes["shard_rows"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as err:
        raise CorruptDataError(f"embedding set {name}: expected its sizes, found: {err}") from err
    _check_fingerprint(attributes, spec.label)
    return spec


def _check_fingerprint(attributes: dict[str, Any], label: str) -> None:
    if hash_of(attributes.get("fingerprint")) != attributes.get("fingerprint_id"):
        raise CorruptDataError(f"{label}: its fingerprint does not match its id; the metadata was edited by hand")


def stored_layout(backend: StorageBackend, spec: SetSpec, array: ArraySpec) -> ArrayLayout | None:
    """Return how an array really lies: as this version writes it, or another way (None: zarr decodes it).

    Raises
    ------
    CorruptDataError
        If its rows have another shape or type than the set says.
    """
    try:
        layout, _ = read_layout(backend, array.key)
    except NotFoundError as err:
        raise CorruptDataError(f"{spec.label}: expected the array {array.key}, found no metadata") from err
    if layout is None:
        return None
    expected = array.layout
    if (layout.row_shape, layout.dtype, layout.shard_rows) != (
        expected.row_shape, expected.dtype, expected.shard_rows,
    ):  # fmt: skip
        raise CorruptDataError(
            f"{spec.label}: expected {array.name} with rows {expected.row_shape} {expected.dtype} in shards of "
            f"{expected.shard_rows}, found {layout.row_shape} {layout.dtype} in shards of {layout.shard_rows}"
        )
    return layout
