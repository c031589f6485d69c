"""Search by a new video: the stored recipe, run on one file in a throw-away store, then the index."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flows.stages import STAGES
from pipeline import Dataset, FeatureStore
from pipeline.errors import NoDataError, NotFoundError
from pipeline.events import OnEvent, ignore
from pipeline.recipe import Recipe, parse_recipe
from pipeline.settings import Settings


@dataclass(frozen=True)
class SearchResult:
    """What was found for one query, nearest first."""

    query: str
    hits: tuple[Any, ...]
    """Of :class:`probe.index_search.SearchHit`."""
    index: dict[str, object]
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
    on_event : callable, optional

    Raises
    ------
    NotFoundError
        If the file, the index or a recipe is not there.
    NoDataError
        If no crop of the video could be read.
    """
    from extract.thumbnails import video_thumbnails
    from probe.index_search import open_index

    if not video.is_file():
        raise NotFoundError(f"expected a video file at {video}, found none")
    held = store.dataset(dataset)
    opened = open_index(store, dataset, index)
    recipe = stored_recipe(held)
    with _extracted(
        recipe, held, video, settings, needs_embedding=opened.source.readout != "mean", on_event=on_event
    ) as (query):
        vectors, valid = opened.source.read(query, np.arange(1))
        if not valid.all():
            problem = query.videos.column("probe_error")[0].as_py() or "no crop of it could be decoded"
            raise NoDataError(f"expected a readable video at {video}, found: {problem}")
    found = opened.search(vectors, k)
    return _result(store, dataset, str(video), opened, found, tuple(video_thumbnails(video)))


def search_by_id(
    store: FeatureStore, dataset: str, video_id: str, settings: Settings, *, k: int = 10, index: str = "default"
) -> SearchResult:
    """Find the stored videos nearest to a stored one, itself left out."""
    from extract.thumbnails import catalogue_thumbnails
    from probe.index_search import open_index, search_stored

    opened = open_index(store, dataset, index)
    found = search_stored(store, dataset, index, [video_id], k)
    held = store.dataset(dataset)
    frames = catalogue_thumbnails(held.videos, settings)(held.row_of(video_id))
    return _result(store, dataset, video_id, opened, found, tuple(frames))


def stored_recipe(dataset: Dataset) -> Recipe:
    """Return the recipe that the features of a dataset remember.

    Raises
    ------
    NotFoundError
        If none does (imported features, say).
    """
    for crops in dataset.crop_sets():
        for feature_set in dataset.feature_sets(crops):
            if content := dataset.feature_info(crops, feature_set).recipe:
                return parse_recipe(content, source=f"recipe kept with {crops}/{feature_set}")
    raise NotFoundError(
        f"expected features of {dataset.name} that remember their recipe, found none; run a recipe first"
    )


def _result(
    store: FeatureStore, dataset: str, query: str, opened: Any, found: Any, frames: tuple[bytes, ...]
) -> SearchResult:
    from probe.index_search import describe_hits

    hits = describe_hits(store, dataset, found.rows[0], found.similarities[0])
    return SearchResult(query, tuple(hits), opened.meta, opened.stale, frames)


@contextmanager
def _extracted(
    recipe: Recipe, held: Dataset, video: Path, settings: Settings, *, needs_embedding: bool, on_event: OnEvent
) -> Iterator[Dataset]:
    """Run catalog, extract and (where the index needs it) embed on one file; yield its dataset."""
    content = recipe.model_dump(mode="json", by_alias=True)
    content["dataset"] = {"name": held.name, "videos": [glob.escape(video.name)], "shard_rows": 1}
    single = parse_recipe(content, source="recipe of the query")
    # Weights are still looked for where the store's own run found them.
    own = settings.model_copy(
        update={"data": video.resolve().parent, "weights": settings.weights or settings.data, "dask": None}
    )
    with tempfile.TemporaryDirectory(prefix="scale-search-") as folder:
        store = FeatureStore.create(str(Path(folder) / "store"))
        for name in ("catalog", "extract"):
            STAGES[name].run(STAGES[name].plan(single, store, own), store, own, on_event)
        if needs_embedding and single.train is not None:
            model = held.artifact("models", single.train.name)
            files = {name: model.read(name) for name in model.files}
            store.dataset(held.name).save_artifact("models", single.train.name, files, dict(model.meta))
            STAGES["embed"].run(STAGES["embed"].plan(single, store, own), store, own, on_event)
        yield store.dataset(held.name)
