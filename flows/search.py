"""Search by a video that is new, or by one that is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.query_video import query_vector
from pipeline import FeatureStore
from pipeline.events import OnEvent, ignore
from pipeline.settings import Settings


@dataclass(frozen=True)
class Condition:
    """An SQL condition over the catalogue, with the values of its parameters."""

    text: str
    params: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SearchResult:
    """What was found for one query, nearest first."""

    query: str
    hits: tuple[Any, ...]
    """Of :class:`probe.index.search.SearchHit`."""
    index: dict[str, Any]
    stale: str | None
    query_frames: tuple[bytes, ...] = field(default=(), repr=False)

    def table(self) -> list[dict[str, object]]:
        """Return rows for people: similarity, time, path."""
        return [
            {
                "rank": hit.rank,
                "similarity": round(float(hit.similarity), 4),
                "video": hit.video_id,
                "label": hit.label,
                "duration_s": hit.duration_s,
                "path": hit.uri.removeprefix("file://"),
            }
            for hit in self.hits
        ]


def search_video(
    store: FeatureStore,
    dataset: str,
    video: Path,
    settings: Settings,
    *,
    k: int = 10,
    index: str = "default",
    where: Condition | None = None,
    on_event: OnEvent = ignore,
) -> SearchResult:
    """Find the stored videos nearest to a file that is not in the store.

    Parameters
    ----------
    store : FeatureStore
    dataset : str
    video : Path
        Read with the recipe that the store remembers, so that its vector is comparable.
    settings : Settings
        `weights` and `data` find the backbone's weights.
    k : int, default 10
    index : str, default "default"
    where : Condition, optional
        Search only the videos for which it holds, all of them, by their stored vectors.
    on_event : callable, optional

    Raises
    ------
    NotFoundError
        If the file, the index or a recipe is not there.
    NoDataError
        If no crop of the video could be read.
    """
    from extract.pixels.thumbnails import video_thumbnails
    from probe.index.search import open_index

    opened = open_index(store, dataset, index)
    vectors = query_vector(video, opened, store.dataset(dataset), settings, on_event)
    found = opened.search(vectors, k, rows_where(store, dataset, where))
    return _result(store, dataset, str(video), opened, found, tuple(video_thumbnails(video)), settings)


def search_by_id(
    store: FeatureStore,
    dataset: str,
    video_id: str,
    settings: Settings,
    *,
    k: int = 10,
    index: str = "default",
    where: Condition | None = None,
) -> SearchResult:
    """Find the stored videos nearest to a stored one, itself left out; as :func:`search_video`."""
    from extract.pixels.thumbnails import catalogue_thumbnails
    from probe.index.search import open_index, search_stored

    opened = open_index(store, dataset, index)
    found = search_stored(store, dataset, index, [video_id], k, among=rows_where(store, dataset, where))
    held = store.dataset(dataset)
    frames = catalogue_thumbnails(held.videos, settings, kept=held.preview)(held.row_of(video_id))
    return _result(store, dataset, video_id, opened, found, tuple(frames), settings)


def rows_where(store: FeatureStore, dataset: str, where: Condition | None) -> Any:
    """Return the rows that meet a condition; None where there is none."""
    return None if where is None else store.dataset(dataset).select(where.text, params=where.params).rows


def _result(
    store: FeatureStore,
    dataset: str,
    query: str,
    opened: Any,
    found: Any,
    frames: tuple[bytes, ...],
    settings: Settings,
) -> SearchResult:
    return SearchResult(query, present_hits(store, dataset, found, settings), opened.meta, opened.stale, frames)


def present_hits(store: FeatureStore, dataset: str, found: Any, settings: Settings) -> tuple[Any, ...]:
    """Return the hits of one query, with the addresses at which the videos lie now."""
    from probe.index.search import describe_hits

    hits = describe_hits(store, dataset, found.rows[0], found.similarities[0])
    return tuple(hit._replace(uri=_present_address(hit, settings)) for hit in hits)


def _present_address(hit: Any, settings: Settings) -> str:
    """Return where a found video lies now: below the data folder, if it moved there, else where it was catalogued."""
    from extract.catalog.find_videos import resolve_video

    place = resolve_video(hit.video_id, hit.uri, settings)
    if not isinstance(place, Path):
        return place.address
    return place.as_uri() if place.is_absolute() and place.exists() else hit.uri
