"""Embeddings without a model: a readout fitted once on training rows, kept, and applied to every shard alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import NoDataError, NotFoundError
from pipeline.readouts.fitting import FittedReadout, fit_readout, read_parts

if TYPE_CHECKING:
    from pipeline import Dataset
    from pipeline.products import Embeddings

READOUT_FILE = "readout.npz"


def fitted_readout(dataset: Dataset, target: Embeddings, fingerprint: str) -> FittedReadout:
    """Return the readout of an embedding set, fitted on the split's training rows the first time.

    It is kept beside the models, so that videos that come later are read as those before them were.

    Raises
    ------
    NoDataError
        If no training row has the features.
    """
    assert target.untrained is not None
    name = f"{target.name}.readout"
    try:
        artifact = dataset.artifact("models", name)
        if artifact.meta.get("embedding_fingerprint") == fingerprint:
            return FittedReadout.decode(target.untrained, artifact.read(READOUT_FILE))
    except NotFoundError:
        pass  # the first time
    fitted = _fit(dataset, target)
    chosen = {str(k): v for k, v in (fitted.chosen or {}).items()}
    meta = {"embedding_fingerprint": fingerprint, "strength": fitted.strength, "heldout_knn": chosen}
    dataset.save_artifact("models", name, {READOUT_FILE: fitted.encode()}, meta)
    return fitted


def _fit(dataset: Dataset, target: Embeddings) -> FittedReadout:
    spec = target.untrained
    assert spec is not None
    split = target.spec.split.replace("'", "''")
    selection = dataset.select(f"splits['{split}'] = 'train'")
    parts, valid = read_parts(dataset, spec, selection.rows)
    if not valid.any():
        raise NoDataError(
            f"expected rows that split {target.spec.split!r} marks as train, with features, for the embedding set "
            f"{target.name}, found none of {len(selection)}; name another split under `embed`, or run extract first"
        )
    videos = selection.videos
    labels = [tuple(x for x in (many or [one]) if x) for one, many in zip(
        videos["label"].to_pylist(), videos["labels"].to_pylist(), strict=True
    )]  # fmt: skip
    groups = [group or f"video:{name}" for group, name in zip(
        videos["group"].to_pylist(), videos["video_id"].to_pylist(), strict=True
    )]  # fmt: skip
    views = None
    if spec.project == "vicreg":
        (first, has_first), (second, has_second) = (
            read_parts(dataset, spec, selection.rows, half=half) for half in (0, 1)
        )
        both = has_first & has_second
        views = ([part[both] for part in first], [part[both] for part in second])
    used = np.flatnonzero(valid)
    return fit_readout(
        [part[used] for part in parts],
        spec,
        labels=[labels[i] for i in used],
        groups=[groups[i] for i in used],
        views=views,
    )


def embed_rows(dataset: Dataset, fitted: FittedReadout, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, E) float32 and which rows have the features."""
    parts, valid = read_parts(dataset, fitted.spec, rows)
    return np.where(valid[:, None], fitted(parts), 0.0).astype(np.float32), valid
