"""What every export writes: values a shard at a time, and where they came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.storage.schema import GEOMETRY_COLUMNS

if TYPE_CHECKING:
    from pipeline.sets.blocks import FeatureBlock
    from pipeline.sets.handles import SelectionHandle


def shard_blocks(selection: SelectionHandle, crops: str, feature_set: str) -> Iterator[FeatureBlock]:
    """Yield the features of a selection in row order, a shard's worth at a time."""
    if not len(selection):
        return
    size = selection.dataset.shard_rows
    yield from selection.batches(crops, feature_set, batch_size=size, shuffle=False)


def provenance(selection: SelectionHandle, crops: str, feature_set: str) -> dict[str, Any]:
    """Return where exported features came from, JSON-like."""
    dataset = selection.dataset
    info = dataset.feature_info(crops, feature_set)
    return {
        "dataset": dataset.name,
        "shard_rows": dataset.shard_rows,
        "crops": crops,
        "crop_policy": dataset.crop_policy(crops).model_dump(mode="json"),
        "feature_set": feature_set,
        "fingerprint": info.fingerprint,
        "fingerprint_id": info.fingerprint_id,
        "snapshot": dataset.snapshot(crops, feature_set),
        "recipe": info.recipe,
        "geometry_columns": list(GEOMETRY_COLUMNS),
    }
