"""Tables about what train, index and probe left: the artifacts, the numbers of reports, their predictions.

Reports are read as the JSON and Parquet they are; a report of an older version answers with what it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import CorruptDataError
from pipeline.fingerprint import canonical_json
from pipeline.storage.parquet import read_parquet
from pipeline.storage.schema import ARTIFACT_KINDS

if TYPE_CHECKING:
    from pipeline.sets.handles import ArtifactHandle, DatasetHandle

REPORT_FILE = "report.json"
PREDICTIONS_FILE = "predictions.parquet"

ARTIFACTS_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("saved_at", pa.timestamp("us", tz="UTC")),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("files", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("snapshot", pa.string()),
        pa.field("meta", pa.string(), nullable=False),
    ]
)
"""``artifacts``: one row for every model, index and report. `files`: name -> sha256; `meta`: JSON, in full."""

NUMBERS_SCHEMA = pa.schema(
    [
        pa.field("report", pa.string(), nullable=False),
        pa.field("created", pa.timestamp("us", tz="UTC")),
        pa.field("result", pa.string(), nullable=False),
        pa.field("probe", pa.string()),
        pa.field("split", pa.string()),
        pa.field("crops", pa.string()),
        pa.field("feature_set", pa.string()),
        pa.field("readout", pa.string()),
        pa.field("embedding", pa.string()),
        pa.field("protocol", pa.string()),
        pa.field("centring", pa.string()),
        pa.field("k", pa.int64()),
        pa.field("k_used", pa.int64()),
        pa.field("temperature", pa.float64()),
        pa.field("top1", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("top5", pa.float64()),
        pa.field("mean_class", pa.float64()),
        pa.field("mean_average_precision", pa.float64()),
        pa.field("used", pa.int64()),
        pa.field("excluded", pa.int64()),
        pa.field("num_train", pa.int64()),
        pa.field("num_classes", pa.int64()),
        pa.field("is_headline", pa.bool_()),
        pa.field("recipe", pa.string()),
        pa.field("fingerprint", pa.string()),
        pa.field("embedding_fingerprint", pa.string()),
        pa.field("snapshot", pa.string()),
    ]
)
"""``numbers``: one row for every number of every report, with its 95 % interval and what it was measured on."""

PREDICTIONS_SCHEMA = pa.schema(
    [
        pa.field("report", pa.string(), nullable=False),
        pa.field("result", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("predicted", pa.string()),
        pa.field("correct", pa.bool_()),
    ]
)
"""``predictions``: one row for every test video of every number."""

_SAME_NAME = tuple(name for name in NUMBERS_SCHEMA.names if name not in ("report", "created", "result", "low", "high"))


def artifacts_table(dataset: DatasetHandle) -> pa.Table:
    """Return ARTIFACTS_SCHEMA of a dataset."""
    rows = []
    for kind in ARTIFACT_KINDS:
        for name in dataset.artifacts(kind):
            artifact = dataset.artifact(kind, name)
            listed = dataset.backend.list(f"{dataset.name}/{kind}/{name}")
            snapshot = artifact.meta.get("snapshot")
            rows.append(
                {
                    "kind": kind,
                    "name": name,
                    "saved_at": _time(artifact.saved_at),
                    "bytes": sum(size for _, size in listed),
                    "files": sorted(artifact.files.items()),
                    "snapshot": snapshot if isinstance(snapshot, str) else None,
                    "meta": canonical_json(artifact.meta),
                }
            )
    return pa.Table.from_pylist(rows, ARTIFACTS_SCHEMA)


def numbers_table(dataset: DatasetHandle) -> pa.Table:
    """Return NUMBERS_SCHEMA of a dataset."""
    rows: list[dict[str, Any]] = []
    for artifact in _reports(dataset, REPORT_FILE):
        try:
            report = json.loads(artifact.read(REPORT_FILE))
            for result in report["results"]:
                low, high = result.get("interval") or (None, None)
                rows.append(
                    {name: result.get(name) for name in _SAME_NAME}
                    | {"report": artifact.name, "created": _time(report.get("created")), "result": result["id"]}
                    | {"low": low, "high": high}
                )
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise CorruptDataError(
                f"report {artifact.name}: expected its numbers in {REPORT_FILE}, found: {err}"
            ) from err
    try:
        return pa.Table.from_pylist(rows, NUMBERS_SCHEMA)
    except pa.ArrowException as err:
        raise CorruptDataError(f"reports of {dataset.name}: expected numbers, found: {err}") from err


def predictions_batches(dataset: DatasetHandle) -> Iterator[pa.RecordBatch]:
    """Yield PREDICTIONS_SCHEMA of a dataset, a report after the other."""
    for artifact in _reports(dataset, PREDICTIONS_FILE):
        try:
            table = read_parquet(artifact.read(PREDICTIONS_FILE))
            names = pa.array([artifact.name] * table.num_rows, pa.string())
            columns = [names, *(table[f.name].cast(f.type) for f in list(PREDICTIONS_SCHEMA)[1:])]
        except (pa.ArrowException, KeyError) as err:
            raise CorruptDataError(
                f"report {artifact.name}: expected predictions in {PREDICTIONS_FILE}, found: {err}"
            ) from err
        yield from pa.table(columns, schema=PREDICTIONS_SCHEMA).to_batches(65_536)


def _reports(dataset: DatasetHandle, file: str) -> Iterator[ArtifactHandle]:
    for name in dataset.artifacts("reports"):
        artifact = dataset.artifact("reports", name)
        if file in artifact.files and isinstance(artifact.meta, Mapping):
            yield artifact


def _time(text: Any) -> Any:
    from datetime import UTC, datetime

    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
