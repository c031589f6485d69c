"""From the store to what probes measure: rows of a split with labels, their features, and why a row is left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import NoDataError, NotFoundError
from pipeline.names import did_you_mean
from pipeline.storage.schema import GEOMETRY_COLUMNS
from probe.data.vectors import pool_crops
from probe.results import Coverage

if TYPE_CHECKING:
    from pipeline import Dataset

ROWS_PER_READ = 2048
MAX_CROP_BYTES = 8 << 30
"""Single crops are kept in memory up to here; beyond it only their means are, and what needs crops is skipped."""
NUM_EXAMPLES = 20


@dataclass(frozen=True)
class SplitTable:
    """The rows of one split, train rows first, each side in the order of the store."""

    split: str
    rows: np.ndarray
    """(n,) int64 rows of the dataset."""
    is_test: np.ndarray
    """(n,) bool."""
    video_ids: tuple[str, ...]
    uris: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    """Empty where a video has none."""
    groups: tuple[str, ...]
    """A video without a group is one of its own."""
    sha256: tuple[str, ...]
    not_in_split: int
    """Rows of the dataset on neither side."""

    def __len__(self) -> int:
        """Return the rows on both sides."""
        return len(self.rows)

    @property
    def is_multilabel(self) -> bool:
        """Whether any video has more than one label."""
        return any(len(labels) > 1 for labels in self.labels)


def read_split(ds: Dataset, split: str) -> SplitTable:
    """Read who is on which side of a split; of `<split>/val` those of val are measured instead of those of test.

    Raises
    ------
    NotFoundError
        If no video knows this split; names the splits there are.
    NoDataError
        If one side is empty; with the counts of both.
    """
    table = ds.videos
    columns = {
        name: table.column(name).to_pylist()
        for name in ("row", "video_id", "uri", "label", "labels", "splits", "group", "sha256")
    }
    sides = [dict(splits or ()) for splits in columns["splits"]]
    known = sorted({name for side in sides for name in side})
    name, side_measured = split, "test"
    if split not in known and split.endswith("/val"):
        name, side_measured = split.removesuffix("/val"), "val"
    if name not in known:
        raise NotFoundError(
            f"expected the split {name!r} in dataset {ds.name}, found {known or 'no splits at all'} "
            f"on {len(sides)} videos; name one of them under `split`, or add it under `dataset.splits`"
            f"{did_you_mean(name, known)}"
        )
    side = [s.get(name) for s in sides]
    counts = Counter(s for s in side if s)
    if not counts["train"] or not counts[side_measured]:
        raise NoDataError(
            f"expected train and {side_measured} videos in split {name!r} of dataset {ds.name}, found "
            f"{counts['train']} train, {counts['test']} test and {counts['val']} val of {len(side)} videos"
            + ("; `side: val` measures on val" if counts["val"] and side_measured == "test" else "")
        )
    order = [i for wanted in ("train", side_measured) for i, s in enumerate(side) if s == wanted]
    rows = columns["row"]
    return SplitTable(
        split=split,
        rows=np.array([rows[i] for i in order], np.int64),
        is_test=np.array([side[i] == side_measured for i in order]),
        video_ids=tuple(columns["video_id"][i] for i in order),
        uris=tuple(columns["uri"][i] or "" for i in order),
        labels=tuple(_labels(columns["label"][i], columns["labels"][i]) for i in order),
        # The prefix keeps a video id from meeting a group of the same name.
        groups=tuple(
            f"g:{columns['group'][i]}" if columns["group"][i] else f"v:{columns['video_id'][i]}" for i in order
        ),
        sha256=tuple(columns["sha256"][i] or "" for i in order),
        not_in_split=len(side) - len(order),
    )


def _labels(label: str | None, labels: list[str] | None) -> tuple[str, ...]:
    several = tuple(dict.fromkeys(item for item in labels or () if item))
    return several or ((label,) if label else ())


@dataclass(frozen=True)
class FeatureTable:
    """The features of a split's rows, in its order."""

    crops: str
    feature_set: str
    pooled: np.ndarray
    """(n, D) float32: mean of the valid crops, zeros without any."""
    reasons: tuple[str, ...]
    """Why a row has no features; empty text where it has."""
    num_crops: int
    values: np.ndarray | None
    """(n, V, D) as stored; None where it would not fit in memory."""
    valid: np.ndarray
    """(n, V) bool."""
    geometry: np.ndarray
    """(n, V, G) float32, as stored."""


def read_features(ds: Dataset, split: SplitTable, crops: str, feature_set: str) -> FeatureTable:
    """Read pooled features (and the crops, where they fit) of a split's rows.

    Raises
    ------
    NotFoundError
        If there is no such feature set.
    """
    known = ds.feature_sets(crops) if crops in ds.crop_sets() else []
    if feature_set not in known:
        raise NotFoundError(
            f"expected features {crops}/{feature_set} in dataset {ds.name}, found {sorted(known) or 'none'} "
            f"for the crop set {crops}; run `scale extract` first"
        )
    info = ds.feature_info(crops, feature_set)
    shape = (len(split), info.num_crops, info.dim)
    keep = int(np.prod(shape)) * np.dtype(info.dtype).itemsize <= MAX_CROP_BYTES
    values = np.zeros(shape, info.dtype) if keep else None
    valid = np.zeros(shape[:2], bool)
    pooled = np.zeros((shape[0], shape[2]), np.float32)
    geometry = np.zeros((*shape[:2], len(GEOMETRY_COLUMNS)), np.float32)
    for at in _reads(split.rows):
        block = ds.select(rows=split.rows[at]).features(crops, feature_set)
        finite = np.asarray(block.valid, bool) & np.isfinite(block.values).all(axis=2)
        safe = np.where(finite[:, :, None], block.values, 0) if not finite.all() else block.values
        pooled[at], _ = pool_crops(safe, finite)
        valid[at] = finite
        geometry[at] = block.geometry
        if values is not None:
            values[at] = safe
    reasons = np.full(len(split), "", object)
    without = np.flatnonzero(valid.sum(axis=1) == 0)
    said = ds.status_of(crops, feature_set, split.rows[without])["status"].to_pylist()
    reasons[without] = [_reason(status) for status in said]
    return FeatureTable(crops, feature_set, pooled, tuple(reasons), info.num_crops, values, valid, geometry)


def read_embeddings(ds: Dataset, split: SplitTable, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read an embedding set: vectors (n, E) float32 and, where a row has none, why."""
    info = ds.embedding_info(name)
    vectors = np.zeros((len(split), info.dim), np.float32)
    has_one = np.zeros(len(split), bool)
    finite = np.ones(len(split), bool)
    for at in _reads(split.rows):
        block = ds.select(rows=split.rows[at]).embeddings(name)
        found = np.asarray(block.values, np.float32)
        finite[at] = np.isfinite(found).all(axis=1)
        has_one[at] = np.asarray(block.valid, bool)
        vectors[at] = np.where(finite[at, None], found, 0)
    reasons = tuple(
        "" if ok and fine else ("no embedding" if not ok else "non_finite")
        for ok, fine in zip(has_one, finite, strict=True)
    )
    return vectors, reasons


def _reads(rows: np.ndarray) -> list[np.ndarray]:
    """Return positions in `rows`, a few thousand at a time, each piece with ascending rows."""
    order = np.argsort(rows, kind="stable")
    return [order[i : i + ROWS_PER_READ] for i in range(0, len(order), ROWS_PER_READ)]


def _reason(status: str | None) -> str:
    if status in (None, "pending"):
        return "pending"
    return "no valid crop" if status == "ok" else str(status)


@dataclass(frozen=True)
class UsedRows:
    """Which positions of a split a readout measures."""

    train: np.ndarray
    """(N,) int64 positions."""
    test: np.ndarray
    """(Q,) int64 positions."""
    coverage: Coverage


def used_rows(split: SplitTable, reasons: tuple[str, ...], *, crops: str, feature_set: str, readout: str) -> UsedRows:
    """Leave out rows without features or label, and count why.

    Raises
    ------
    NoDataError
        If nothing is left on one side; with what was excluded and why.
    """
    why = [reason or ("" if labels else "no label") for reason, labels in zip(reasons, split.labels, strict=True)]
    is_used = np.array([not reason for reason in why])
    excluded = {
        side: dict(Counter(why[i] for i in np.flatnonzero(~is_used & (split.is_test == side))))
        for side in (False, True)
    }
    train, test = np.flatnonzero(is_used & ~split.is_test), np.flatnonzero(is_used & split.is_test)
    if not len(train) or not len(test):
        raise NoDataError(
            f"expected usable train and test videos for {readout} of {crops}/{feature_set} in split {split.split!r}, "
            f"found {len(train)} train and {len(test)} test; excluded from train: {excluded[False] or 'none'}, "
            f"from test: {excluded[True] or 'none'}"
        )
    examples = tuple((split.video_ids[i], why[i]) for i in np.flatnonzero(~is_used)[:NUM_EXAMPLES])
    coverage = Coverage(
        crops=crops,
        feature_set=feature_set,
        readout=readout,
        used_train=len(train),
        used_test=len(test),
        excluded_train=excluded[False],
        excluded_test=excluded[True],
        not_in_split=split.not_in_split,
        examples=examples,
    )
    return UsedRows(train, test, coverage)
