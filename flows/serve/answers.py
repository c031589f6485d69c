"""What pages and service say about a dataset: plain functions of one moment of it, each computed once a moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.serve.stores import HeldDataset
from pipeline.errors import NotFoundError, PipelineError
from pipeline.query.holdings import feature_pairs
from pipeline.status import VideoStatus
from pipeline.storage.schema import PENDING

if TYPE_CHECKING:
    from pipeline import FeatureStore
    from probe.index.search import SearchIndex

T = TypeVar("T")
MAX_FACETS = 200
_LOCKING = threading.Lock()
MAX_RECENT = 32
"""Choices of rows that a moment remembers: of a large dataset each is megabytes."""


def once(held: HeldDataset, key: Any, make: Callable[[], T]) -> T:
    """Return what `make` gives, made once for this moment of the dataset."""
    if key not in held.memo:
        with _LOCKING:
            lock = held.locks.setdefault(key, threading.Lock())
        with lock:  # two requests for the same answer compute it once, and others are not kept waiting
            if key not in held.memo:
                held.memo[key] = make()
    return held.memo[key]


@dataclass(frozen=True)
class SetSummary:
    """A feature set or embedding set at a glance."""

    name: str
    """``crops/feature set``, or the embedding set's name."""
    kind: str
    dim: int
    num_crops: int | None
    counts: dict[str, int]
    """Status -> videos; `pending` included."""
    bytes: int

    @property
    def done(self) -> int:
        """Videos that have a status."""
        return sum(count for status, count in self.counts.items() if status != PENDING)

    @property
    def total(self) -> int:
        """Videos."""
        return sum(self.counts.values())


def statuses(held: HeldDataset, crops: str | None, name: str) -> pa.ChunkedArray:
    """Return the status of every row in a feature set, or (crops None) in an embedding set."""
    ds = held.dataset

    def read() -> pa.ChunkedArray:
        return (ds.embedding_status(name) if crops is None else status_table(held, crops, name))["status"]

    return once(held, ("status", crops, name), read)


def status_table(held: HeldDataset, crops: str, name: str) -> pa.Table:
    """Return what became of every row in a feature set."""
    return once(held, ("table", crops, name), lambda: held.dataset.status(crops, name))


def set_summaries(held: HeldDataset) -> list[SetSummary]:
    """Return every feature set and embedding set with its progress and bytes."""

    def make() -> list[SetSummary]:
        ds, found = held.dataset, []
        for crops, name in feature_pairs(held.dataset):
            info = ds.feature_info(crops, name)
            prefix = f"{ds.name}/crops/{crops}/features/{name}"
            counts = ds.status_counts(crops, name)
            found.append(
                SetSummary(f"{crops}/{name}", "features", info.dim, info.num_crops, counts, _bytes(ds, prefix))
            )
        for name in ds.embedding_sets():
            counts, prefix = _counted(statuses(held, None, name)), f"{ds.name}/embeddings/{name}"
            found.append(SetSummary(name, "embeddings", ds.embedding_info(name).dim, None, counts, _bytes(ds, prefix)))
        return found

    return once(held, "sets", make)


def overview(held: HeldDataset) -> dict[str, Any]:
    """Return the dataset at a glance: videos, hours, bytes, labels, growth by day, sets, artifacts."""

    def make() -> dict[str, Any]:
        videos = held.dataset.videos
        seconds = pc.sum(videos["duration_s"]).as_py() or 0.0
        added = pc.strftime(videos["added_at"].drop_null(), format="%Y-%m-%d")
        growth = sorted((item["values"], item["counts"]) for item in pc.value_counts(added).to_pylist())
        return {
            "dataset": held.dataset.name,
            "videos": videos.num_rows,
            "unreadable": videos.num_rows - videos["probe_error"].null_count,
            "labels": len(pc.unique(videos["label"].drop_null())),
            "hours": seconds / 3600,
            "bytes": pc.sum(videos["bytes"]).as_py() or 0,
            "growth": growth,
            "sets": set_summaries(held),
            "models": held.dataset.artifacts("models"),
            "indexes": held.dataset.artifacts("indexes"),
            "reports": held.dataset.artifacts("reports"),
            "snapshot": held.snapshot,
        }

    return once(held, "overview", make)


def facets(held: HeldDataset) -> dict[str, list[tuple[str, int]]]:
    """Return labels, splits (``name = side``) and statuses with how many videos have them, most frequent first."""

    def make() -> dict[str, list[tuple[str, int]]]:
        videos = held.dataset.videos
        sides: dict[str, int] = {}
        splits = videos["splits"].combine_chunks()
        if len(splits):
            keys, values = splits.keys, splits.items
            for item in pc.value_counts(pc.binary_join_element_wise(keys, values, "\0")).to_pylist():
                if item["values"] is not None:
                    sides[item["values"].replace("\0", " = ")] = item["counts"]
        found: dict[str, int] = {}
        for crops, name in feature_pairs(held.dataset):
            for status, count in _counted(statuses(held, crops, name)).items():
                found[status] = max(found.get(status, 0), count)
        return {
            "label": _most(_counted(videos["label"])),
            "split": sorted(sides.items()),
            "status": _most(found),
        }

    return once(held, "facets", make)


def filter_rows(
    held: HeldDataset, condition: str = "", label: str = "", split: str = "", status: str = "", rows: str = ""
) -> np.ndarray:
    """Return the rows that meet all that is given, ascending.

    Parameters
    ----------
    condition : str
        An SQL condition, as ``select`` takes it.
    label : str
    split : str
        ``name = side``.
    status : str
        In any feature set.
    rows : str
        Row numbers, comma-separated (a selection on the map).

    Raises
    ------
    QueryError
        If the condition does not run.
    """
    key = (condition, label, split, status, rows)
    with _LOCKING:
        if key in held.recent:
            held.recent.move_to_end(key)
            return held.recent[key]
    videos = held.videos
    kept = held.present.copy()
    if label:
        kept &= is_true(pc.equal(videos["label"], label))
    if split:
        name, _, side = split.partition(" = ")
        kept &= is_true(pc.equal(pc.map_lookup(videos["splits"], name, "first"), side))
    if status:
        any_set = np.zeros(videos.num_rows, bool)
        for crops, feature_set in feature_pairs(held.dataset):
            any_set |= is_true(pc.equal(statuses(held, crops, feature_set), status))
        kept &= any_set
    if rows:
        chosen = np.zeros(videos.num_rows, bool)
        numbers = np.array([int(r) for r in rows.split(",") if r.strip().isdigit() and len(r) < 13], np.int64)
        chosen[numbers[numbers < videos.num_rows]] = True
        kept &= chosen
    found = np.flatnonzero(kept)
    if condition.strip():
        chosen = np.zeros(videos.num_rows, bool)
        chosen[held.dataset.select(condition).rows] = True
        found = found[chosen[found]]
    with _LOCKING:
        held.recent[key] = found
        while len(held.recent) > MAX_RECENT:
            held.recent.popitem(last=False)
    return found


def describe_rows(held: HeldDataset, rows: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
    """Return what a grid shows of some rows, in their order."""
    names = ("row", "video_id", "label", "duration_s", "num_frames", "width", "height", "probe_error", "group")
    table = held.videos.select([n for n in names if n in held.videos.column_names]).take(pa.array(rows, pa.int64()))
    records = table.to_pylist()
    for crops, name in feature_pairs(held.dataset)[:1]:
        for record, status in zip(records, statuses(held, crops, name).take(pa.array(rows, pa.int64())), strict=True):
            record["status"] = status.as_py()
    return records


def check_row(held: HeldDataset, row: int) -> None:
    """Raise NotFoundError where no video stands in a row."""
    name, count = held.dataset.name, held.videos.num_rows
    if not 0 <= row < count:
        raise NotFoundError(f"expected a row in 0..{count - 1} of dataset {name}, found {row}")
    if not held.present[row]:
        raise NotFoundError(f"expected a video in row {row} of dataset {name}, found that it was removed")


def failures(held: HeldDataset) -> list[dict[str, Any]]:
    """Return why videos have no features, one line a set, status and reason, with how many and an example."""

    def make() -> list[dict[str, Any]]:
        lines: dict[tuple[str, str, str], list[int]] = {}
        for crops, name in feature_pairs(held.dataset):
            table = status_table(held, crops, name)
            bad = pc.invert(pc.is_in(table["status"], value_set=pa.array([VideoStatus.OK.value, PENDING])))
            for item in table.filter(bad).select(["row", "status", "error"]).to_pylist():
                lines.setdefault((f"{crops}/{name}", item["status"], item["error"]), []).append(item["row"])
        unread = held.videos.filter(pc.is_valid(held.videos["probe_error"]))
        for row, error in zip(unread["row"].to_pylist(), unread["probe_error"].to_pylist(), strict=True):
            lines.setdefault(("catalogue", "unreadable", error), []).append(row)
        ids = held.videos["video_id"]
        listed = [
            {"set": where, "status": status, "error": error, "videos": len(rows), "rows": rows[:200],
             "example": ids[rows[0]].as_py()}
            for (where, status, error), rows in lines.items()
        ]  # fmt: skip
        return sorted(listed, key=lambda line: -line["videos"])

    return once(held, "failures", make)


def open_index(held: HeldDataset, store: FeatureStore, name: str) -> SearchIndex:
    """Return an index, opened (and its bytes checked) once for this moment of the dataset."""
    from probe.index import search

    return once(held, ("index", name), lambda: search.open_index(store, held.dataset.name, name, ds=held.dataset))


def nearest(
    held: HeldDataset, store: FeatureStore, row: int, index: str, k: int, among: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the nearest videos of a stored one: stale, hits.

    Raises
    ------
    NotFoundError, NoDataError
        If there is no such index, or the video has no vector.
    """
    from probe.index.search import hits_of, search_rows

    opened = open_index(held, store, index)
    near = search_rows(opened, held.dataset, np.array([row], np.int64), k, among)
    hits = [hit._asdict() for hit in hits_of(held.dataset, near.rows[0], near.similarities[0])]
    return {"index": index, "stale": opened.stale, "hits": hits}


def neighbours(held: HeldDataset, store: FeatureStore, row: int, k: int = 12) -> list[dict[str, Any]]:
    """Return the nearest videos of a stored one in every index, or the reason why there are none."""
    found = []
    for name in held.dataset.artifacts("indexes"):
        try:
            found.append({**nearest(held, store, row, name, k), "error": None})
        except PipelineError as error:
            found.append({"index": name, "stale": None, "hits": [], "error": str(error)})
    return found


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    return {i["values"]: i["counts"] for i in pc.value_counts(column).to_pylist() if i["values"] is not None}


def _most(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_FACETS]


def is_true(mask: pa.ChunkedArray) -> np.ndarray:
    """Return a mask as (n,) bool, null as False."""
    return np.asarray(pc.fill_null(mask, False).to_numpy(zero_copy_only=False), bool)


def _bytes(dataset: Any, prefix: str) -> int:
    return sum(size for _, size in dataset.backend.list(prefix))
