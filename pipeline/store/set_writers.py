"""Crop sets, feature sets and embedding sets opened for writing: made where they are new, else compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.fingerprint import check_same
from pipeline.fingerprint import fingerprint as hash_of
from pipeline.names import check_name, check_set_name
from pipeline.sets.set_files import SetSpec, embedding_set_spec, feature_set_spec
from pipeline.storage import schema
from pipeline.store.appending import mended_catalogue
from pipeline.store.new_sets import open_or_create_set

if TYPE_CHECKING:
    from pipeline.recipe.crops import CropPolicyBase
    from pipeline.sets.writer import EmbeddingWriter, FeatureWriter
    from pipeline.store.handle import Pinned


def define_crop_set(handle: Pinned, name: str, policy: CropPolicyBase) -> None:
    """Make a crop set, or compare its policy; see :meth:`pipeline.store.dataset.Dataset.define_crop_set`."""
    from pipeline.sets.arrays import create_group, read_group

    folder = schema.crop_set_key(handle.name, check_name(name))
    content = policy.model_dump(mode="json")
    attributes = group_attributes(handle, "crop_set", policy=content, fingerprint=hash_of(content),
                                  geometry_columns=list(schema.GEOMETRY_COLUMNS))  # fmt: skip
    for parent in (f"{handle.name}/crops", folder, f"{folder}/features"):
        create_group(handle.backend, parent, attributes if parent == folder else {})
    check_same(read_group(handle.backend, folder, "crop_set")["policy"], content, what=f"crop set {name}")


def feature_writer(
    handle: Pinned,
    crops: str,
    feature_set: str,
    fingerprint: Mapping[str, Any],
    *,
    num_crops: int,
    dim: int,
    dtype: str,
    recipe: Mapping[str, Any] | None,
    accept: Iterable[str],
    network: str | None,
) -> FeatureWriter:
    """Return a writer of a feature set; see :meth:`pipeline.store.dataset.Dataset.writer`."""
    from pipeline.sets.writer import FeatureWriter

    spec = feature_set_spec(
        handle.name, crops, check_name(feature_set), num_crops=num_crops, dim=dim, dtype=dtype,
        shard_rows=handle.shard_rows,
    )  # fmt: skip
    extra: dict[str, Any] = {"num_crops": num_crops, "recipe": dict(recipe) if recipe else None}
    if network is not None:
        extra["network"] = network
    stored, opened = _opened(handle, spec, group_attributes(handle, "feature_set", **extra), fingerprint, accept)
    return FeatureWriter(network=stored.get("network"), **opened)


def embedding_writer(
    handle: Pinned,
    name: str,
    fingerprint: Mapping[str, Any],
    *,
    dim: int,
    dtype: str,
    accept: Iterable[str],
    attrs: Mapping[str, Any] | None,
) -> EmbeddingWriter:
    """Return a writer of an embedding set; see :meth:`pipeline.store.dataset.Dataset.embedding_writer`."""
    from pipeline.sets.writer import EmbeddingWriter

    spec = embedding_set_spec(handle.name, check_set_name(name), dim=dim, dtype=dtype, shard_rows=handle.shard_rows)
    attributes = group_attributes(handle, "embedding_set", attrs=dict(attrs or {}))
    return EmbeddingWriter(**_opened(handle, spec, attributes, fingerprint, accept)[1])


def group_attributes(handle: Pinned, kind: str, **content: Any) -> dict[str, Any]:
    """Return what a new group says of itself: its kind, the schema, and who wrote it."""
    return {"kind": kind, "schema_version": schema.SCHEMA_VERSION, "written_by": handle._store.version, **content}


def _opened(
    handle: Pinned,
    spec: SetSpec,
    attributes: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    accept: Iterable[str],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the attributes of the set, and what a writer takes."""
    stored = open_or_create_set(handle.backend, handle.name, spec, attributes, fingerprint)
    return stored, {
        "differing": check_same(stored["fingerprint"], fingerprint, what=spec.label, accept=accept),
        "backend": handle.backend,
        "spec": spec,
        "num_rows": mended_catalogue(handle.backend, handle.name).num_rows,
        "binding": handle._rows,
        "fingerprint_id": stored["fingerprint_id"],
    }
