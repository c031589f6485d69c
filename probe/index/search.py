"""Searching a stored index: checked before it is loaded, named when it is stale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.errors import CorruptDataError, InvalidInputError, NoDataError, NotFoundError, SnapshotChangedError
from pipeline.events import Note, OnEvent, ignore
from pipeline.names import did_you_mean
from probe.data.vectors import Transform, VectorSource
from probe.index.faiss_index import num_candidates, read_index_file
from probe.maths.ranking import EXTRA_CANDIDATES, best_first, rounded

if TYPE_CHECKING:
    from pipeline import Dataset, FeatureStore


INDEX_FILE = "index.faiss"
CENTRE_FILE = "centre.f32"
COMPARED_AT_ONCE = 65_536
"""Stored vectors in memory while some rows are searched."""


ReadRows = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Neighbours(NamedTuple):
    """Rows and similarities of the nearest stored videos, best first."""

    rows: np.ndarray
    """(Q, K) int64; -1 where the index holds fewer than K videos."""
    similarities: np.ndarray
    """(Q, K) float32: cosine of the centred vectors, -1 to 1; NaN where the row is -1."""


class SearchHit(NamedTuple):
    """One found video, for tables and strips."""

    rank: int
    row: int
    video_id: str
    uri: str
    label: str | None
    duration_s: float | None
    similarity: float


@dataclass(frozen=True)
class SearchIndex:
    """An index in memory, its provenance, and how it stands to the store."""

    name: str
    index: Any
    meta: dict[str, Any]
    source: VectorSource
    transform: Transform
    stale: str | None
    """Why its answers may be incomplete, in words; None when it is of the present snapshot."""
    read: ReadRows | None = None
    """Raw vectors of ascending rows, as :meth:`VectorSource.read` returns them; None where the store lost them."""

    def search(self, vectors: np.ndarray, k: int, among: np.ndarray | None = None) -> Neighbours:
        """Find the `k` nearest videos of each raw (unnormalised) vector.

        Parameters
        ----------
        vectors : ndarray of shape (Q, D) or (D,)
            As :meth:`VectorSource.read` makes them: mean of the valid crops, the embedding, or both joined.
        k : int
        among : ndarray of shape (n,), int64, optional
            Ascending rows to search instead of all: their stored vectors are compared, every one of them.

        Raises
        ------
        InvalidInputError
            If `k` is below 1 or a vector is not finite.
        NotFoundError
            If `among` is given and the store no longer has the vectors.
        ShapeMismatchError
            If the channels do not fit.
        """
        if k < 1:
            raise InvalidInputError(f"expected k of at least 1, found {k}")
        queries = self.transform(vectors)
        if not np.isfinite(queries).all():
            raise InvalidInputError("expected finite query vectors, found NaN or infinity")
        if among is not None:
            similarities, rows = self._compare(queries, among)
            return nearest(similarities, rows, k)
        # Compressed vectors only propose candidates: the store's own vectors decide among them.
        is_compressed = self.meta["kind"] == "ivfpq" and self.read is not None
        depth = min(num_candidates(k) if is_compressed else k + EXTRA_CANDIDATES, self.index.ntotal)
        similarities, rows = self.index.search(np.ascontiguousarray(queries), depth)
        if is_compressed:
            similarities = self._exact(queries, rows, similarities)
        return nearest(similarities, rows, k)

    def _compare(self, queries_QD: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the similarity of every query with every of these rows that has a vector: (Q, n) and (Q, n)."""
        if self.read is None:
            raise NotFoundError(
                f"expected the vectors of {self.source.label} in the store, to search some of them, found none"
            )
        found, scores = [np.empty(0, np.int64)], [np.empty((len(queries_QD), 0), np.float32)]
        for start in range(0, len(rows), COMPARED_AT_ONCE):
            part = rows[start : start + COMPARED_AT_ONCE]
            vectors, valid = self.read(part)
            found.append(part[valid])
            scores.append(queries_QD @ self.transform(vectors[valid]).T)
        kept = np.concatenate(found)
        return np.concatenate(scores, axis=1), np.broadcast_to(kept, (len(queries_QD), len(kept)))

    def _exact(self, queries_QD: np.ndarray, rows_QK: np.ndarray, similarities_QK: np.ndarray) -> np.ndarray:
        """Return the candidates' similarities by the stored vectors; a row that has none any more keeps its own."""
        assert self.read is not None
        exact_QK = similarities_QK.astype(np.float64)
        for query in range(len(queries_QD)):
            known = np.flatnonzero(rows_QK[query] >= 0)
            known = known[np.argsort(rows_QK[query, known])]
            vectors, valid = self.read(rows_QK[query, known])
            scores = self.transform(vectors).astype(np.float64) @ queries_QD[query].astype(np.float64)
            exact_QK[query, known] = np.where(valid, scores, exact_QK[query, known])
        return exact_QK


def nearest(similarities_QN: np.ndarray, rows_QN: np.ndarray, k: int) -> Neighbours:
    """Return the best `k` of each line, equal similarities by row, padded with -1 where there are fewer."""
    similarities, rows = best_first(np.where(rows_QN < 0, -np.inf, rounded(similarities_QN)), rows_QN, k)
    missing = k - rows.shape[1]
    rows = np.pad(rows, ((0, 0), (0, max(missing, 0))), constant_values=-1)
    similarities = np.pad(similarities, ((0, 0), (0, max(missing, 0))), constant_values=np.nan)
    similarities[rows < 0] = np.nan
    return Neighbours(rows, similarities.astype(np.float32))


def index_names(store: FeatureStore, dataset: str) -> list[str]:
    """Return the names of a dataset's indexes."""
    return sorted(store.dataset(dataset).artifacts("indexes"))


def open_index(store: FeatureStore, dataset: str, name: str = "default", *, ds: Dataset | None = None) -> SearchIndex:
    """Load an index after checking its bytes.

    Parameters
    ----------
    store : FeatureStore
    dataset, name : str
    ds : Dataset, optional
        A handle that is open already: the index is compared with, and reads, the moment that it sees.

    Raises
    ------
    NotFoundError
        If there is no such index; names those that exist.
    CorruptDataError
        If a file is not byte for byte what was written.
    """
    ds = ds or store.dataset(dataset)
    known = sorted(ds.artifacts("indexes"))
    if name not in known:
        raise NotFoundError(
            f"expected an index {name!r} in dataset {dataset}, found {known or 'none'}; "
            f"run `scale index RECIPE` first{did_you_mean(name, known)}"
        )
    artifact = ds.artifact("indexes", name)
    try:
        meta = artifact.meta
        source = VectorSource(**meta["source"])
        wanted = (int(meta["num_vectors"]), int(meta["dim"]), str(meta["kind"]), meta["effort"])
        part_dims = tuple(int(d) for d in meta["part_dims"])
    except (KeyError, TypeError, ValueError) as err:
        raise CorruptDataError(
            f"expected the description of index {name} in dataset {dataset}, found {err!r}; run `scale index` again"
        ) from err
    path = artifact.local_path(INDEX_FILE)  # its hash is checked here, before FAISS sees a byte
    index = _load(str(path), artifact.files[INDEX_FILE], *wanted)
    centre = np.frombuffer(artifact.read(CENTRE_FILE), np.float32)
    if centre.shape != (sum(part_dims),) or sum(part_dims) != wanted[1]:
        raise CorruptDataError(
            f"expected {wanted[1]} channels in the centre of index {name}, found {centre.size}; run `scale index` again"
        )
    transform, stale = Transform(part_dims, centre, source.say), _staleness(ds, name, meta, source)
    return SearchIndex(name, index, meta, source, transform, stale, _reader(ds, source))


def _reader(ds: Dataset, source: VectorSource) -> ReadRows | None:
    """Return what reads the source's vectors; None where the store no longer has them."""
    try:
        source.snapshot(ds)
    except NotFoundError:
        return None
    return lambda rows: source.read(ds, rows)


@lru_cache(maxsize=2)
def _load(path: str, sha256: str, num_vectors: int, dim: int, kind: str, effort: int | None) -> Any:
    """Keep the last indexes in memory: repeated searches do not read them again."""
    return read_index_file(Path(path), sha256=sha256, num_vectors=num_vectors, dim=dim, kind=kind, effort=effort)


def _staleness(ds: Dataset, name: str, meta: dict[str, Any], source: VectorSource) -> str | None:
    try:
        present = source.snapshot(ds)
    except NotFoundError:
        return f"index {name} was built from {source.label}, which the store no longer has; run `scale index` again"
    if present == meta["snapshot"] or (meta.get("reads") and meta["reads"] == source.reads(ds)):
        return None
    known = meta["num_vectors"] + meta.get("num_excluded", 0)
    return (
        f"index {name} is stale: built from snapshot {meta['snapshot'][:12]} ({known} videos), the store is now at "
        f"{present[:12]} ({ds.num_rows} videos); run `scale index` to bring it up to date"
    )


def _open_checked(store: FeatureStore, dataset: str, name: str, require_fresh: bool, on_event: OnEvent) -> SearchIndex:
    index = open_index(store, dataset, name)
    if index.stale is not None:
        if require_fresh:
            raise SnapshotChangedError(index.stale)
        on_event(Note("index", index.stale, level="warning"))
    return index


def search_index(
    store: FeatureStore,
    dataset: str,
    name: str,
    vectors: np.ndarray,
    k: int,
    *,
    require_fresh: bool = False,
    on_event: OnEvent = ignore,
) -> Neighbours:
    """Find the nearest stored videos of raw vectors.

    Parameters
    ----------
    store : FeatureStore
    dataset, name : str
        Of the index.
    vectors : ndarray of shape (Q, D) or (D,)
        Made like the index's own: see its `source`.
    k : int
    require_fresh : bool
        Refuse an index of an older snapshot instead of saying so in a note.
    on_event : callable
        Receives a warning that names a stale index.

    Returns
    -------
    Neighbours
        Unpacks as ``rows, similarities``.

    Raises
    ------
    NotFoundError
        No such index.
    CorruptDataError
        Its bytes are not the written ones.
    SnapshotChangedError
        It is stale and `require_fresh` was asked for.
    """
    index = _open_checked(store, dataset, name, require_fresh, on_event)
    return index.search(vectors, k)


def search_stored(
    store: FeatureStore,
    dataset: str,
    name: str,
    video_ids: list[str],
    k: int,
    *,
    among: np.ndarray | None = None,
    require_fresh: bool = False,
    on_event: OnEvent = ignore,
) -> Neighbours:
    """Find the nearest videos of videos that are in the store (or among these rows of it), the query itself left out.

    Raises
    ------
    NotFoundError
        If an id is not in the catalogue.
    NoDataError
        If a video has no vector: its features failed, or are not extracted yet.
    """
    index = _open_checked(store, dataset, name, require_fresh, on_event)
    ds = store.dataset(dataset)
    return search_rows(index, ds, np.array([ds.row_of(video_id) for video_id in video_ids], np.int64), k, among)


def search_rows(
    index: SearchIndex, ds: Dataset, rows: np.ndarray, k: int, among: np.ndarray | None = None
) -> Neighbours:
    """Find the nearest videos of stored rows in an opened index, each query itself left out.

    Raises
    ------
    NoDataError
        If a row has no vector.
    """
    unique, inverse = np.unique(rows, return_inverse=True)
    vectors, valid = index.source.read(ds, unique)
    if not valid[inverse].all():
        video_id = ds.lines_of(rows[~valid[inverse]][:1])["video_id"][0].as_py()
        raise NoDataError(
            f"expected features of video {video_id}, found none in {index.source.label}; see `scale status`"
        )
    found = index.search(vectors[inverse], k + 1, among)
    return without_self(found, rows, k)


def without_self(found: Neighbours, own_rows: np.ndarray, k: int) -> Neighbours:
    """Drop each query's own row from K + 1 neighbours (the last one where it is not among them)."""
    keep = found.rows != own_rows[:, None]
    order = np.argsort(~keep, axis=1, kind="stable")[:, :k]
    return Neighbours(np.take_along_axis(found.rows, order, 1), np.take_along_axis(found.similarities, order, 1))


def describe_hits(store: FeatureStore, dataset: str, rows: np.ndarray, similarities: np.ndarray) -> list[SearchHit]:
    """Look up one query's neighbours in the catalogue.

    Parameters
    ----------
    rows, similarities : ndarray of shape (K,)
        One line of :class:`Neighbours`; rows of -1 are left out.
    """
    return hits_of(store.dataset(dataset), rows, similarities)


def hits_of(ds: Dataset, rows: np.ndarray, similarities: np.ndarray) -> list[SearchHit]:
    """Return :func:`describe_hits` of a dataset that is open."""
    kept = rows >= 0
    wanted = rows[kept]
    if len(wanted) == 0:
        return []
    table = ds.select(rows=np.unique(wanted)).videos
    by_row = {record["row"]: record for record in table.to_pylist()}
    return [
        SearchHit(
            rank=rank,
            row=int(row),
            video_id=by_row[int(row)]["video_id"],
            uri=by_row[int(row)]["uri"],
            label=by_row[int(row)]["label"],
            duration_s=by_row[int(row)]["duration_s"],
            similarity=float(similarity),
        )
        for rank, (row, similarity) in enumerate(zip(wanted, similarities[kept], strict=True), start=1)
    ]
