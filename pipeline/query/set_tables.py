"""Tables about sets: what each is made of and how large it is, and when, where and by whom each shard was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.fingerprint import canonical_json
from pipeline.storage import schema

if TYPE_CHECKING:
    from pipeline.sets.handles import DatasetHandle
    from pipeline.sets.ledger_entry import LedgerEntry

SETS_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("crops", pa.string()),
        pa.field("name", pa.string(), nullable=False),
        pa.field("num_crops", pa.int32()),
        pa.field("dim", pa.int32(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("shards", pa.int64(), nullable=False),
        pa.field("shards_done", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("geometry_bytes", pa.int64(), nullable=False),
        pa.field("backbone", pa.string()),
        pa.field("weights", pa.string()),
        pa.field("policy", pa.string()),
        pa.field("preprocessing", pa.string()),
        pa.field("decoder", pa.string()),
        pa.field("model", pa.string()),
        pa.field("fingerprint_id", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("recipe", pa.string()),
    ]
)
"""``sets``: one row for every feature set and embedding set. `bytes`: its arrays and ledger on disk; `geometry_bytes`:
the crop set's boxes, which its feature sets share. policy, preprocessing, decoder, fingerprint and recipe are JSON."""

SHARDS_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("crops", pa.string()),
        pa.field("name", pa.string(), nullable=False),
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("generation", pa.int64(), nullable=False),
        pa.field("row_start", pa.int64(), nullable=False),
        pa.field("row_stop", pa.int64(), nullable=False),
        pa.field("statuses", pa.map_(pa.string(), pa.int64()), nullable=False),
        pa.field("written_at", pa.timestamp("us", tz="UTC")),
        pa.field("run", pa.string(), nullable=False),
        pa.field("machine", pa.string(), nullable=False),
        pa.field("device", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("versions", pa.map_(pa.string(), pa.string()), nullable=False),
    ]
)
"""``shards``: one row for every finished shard. `run`: machine and process that wrote it."""

FEATURES, EMBEDDINGS = "features", "embeddings"
_SHARDS_A_BATCH = 1024


def each_set(dataset: DatasetHandle) -> Iterator[tuple[str, str | None, str]]:
    """Yield (kind, crop set or None, name) of every set of a dataset."""
    for crops in dataset.crop_sets():
        for name in dataset.feature_sets(crops):
            yield FEATURES, crops, name
    for name in dataset.embedding_sets():
        yield EMBEDDINGS, None, name


def sets_table(dataset: DatasetHandle) -> pa.Table:
    """Return SETS_SCHEMA of a dataset."""
    return pa.Table.from_pylist([_set(dataset, *found) for found in each_set(dataset)], SETS_SCHEMA)


def _set(dataset: DatasetHandle, kind: str, crops: str | None, name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": kind, "crops": crops, "name": name, "geometry_bytes": 0}
    if crops is not None:
        features = dataset.feature_info(crops, name)
        folders = [schema.feature_set_key(dataset.name, crops, name),
                   schema.feature_ledger_key(dataset.name, crops, name)]  # fmt: skip
        policy = dataset.crop_policy(crops).model_dump(mode="json")
        row |= {"num_crops": features.num_crops, "policy": canonical_json(policy),
                "recipe": _json(features.recipe),
                "geometry_bytes": _bytes(dataset, [schema.geometry_key(dataset.name, crops)])}  # fmt: skip
        info: Any = features
    else:
        folders = [schema.embedding_set_key(dataset.name, name)]
        info = dataset.embedding_info(name)
        row |= {"model": info.attrs.get("model"), "policy": _json(info.fingerprint.get("policy"))}
    backbone = info.fingerprint.get("backbone")
    described = backbone if isinstance(backbone, Mapping) else {}
    weights = described.get("weights") or info.fingerprint.get("weights")
    return row | {
        "dim": info.dim,
        "dtype": info.dtype,
        "shards": info.num_shards,
        "shards_done": info.num_shards_done,
        "bytes": _bytes(dataset, folders),
        "backbone": described.get("model") or described.get("name") or described.get("kind") or _text(backbone),
        "weights": weights.get("sha256") or _json(weights) if isinstance(weights, Mapping) else _text(weights),
        "preprocessing": _json(info.fingerprint.get("preprocessing")),
        "decoder": _json(info.fingerprint.get("decoder")),
        "fingerprint_id": info.fingerprint_id,
        "fingerprint": canonical_json(info.fingerprint),
    }


def _json(value: Any) -> str | None:
    return None if value is None else canonical_json(value)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else canonical_json(value)


def _bytes(dataset: DatasetHandle, folders: list[str]) -> int:
    return sum(size for folder in folders for _, size in dataset.backend.list(folder))


def shards_batches(dataset: DatasetHandle) -> Iterator[pa.RecordBatch]:
    """Yield SHARDS_SCHEMA of a dataset."""
    for kind, crops, name in each_set(dataset):
        entries = iter(dataset._ledger(crops, name).entries())
        while rows := [_shard(kind, crops, name, entry) for entry in islice(entries, _SHARDS_A_BATCH)]:
            yield pa.RecordBatch.from_pylist(rows, SHARDS_SCHEMA)


def _shard(kind: str, crops: str | None, name: str, entry: LedgerEntry) -> dict[str, Any]:
    return {
        "kind": kind,
        "crops": crops,
        "name": name,
        "shard": entry.shard,
        "generation": entry.generation,
        "row_start": entry.row_start,
        "row_stop": entry.row_stop,
        "statuses": sorted(Counter(entry.statuses).items()),
        "written_at": _time(entry.written_at),
        "run": entry.written_by,
        "machine": entry.written_by.rpartition(":")[0] or entry.written_by,
        "device": entry.device,
        "seconds": entry.seconds,
        "reason": entry.reason,
        "versions": sorted((str(k), str(v)) for k, v in entry.versions.items()),
    }


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
