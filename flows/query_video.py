"""A video that is not in the store, seen exactly as the index saw the stored ones.

It goes through extraction (and, for an embedding index, through the stored
model) in a small store of its own, with the recipe that the feature set remembers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np

from pipeline import Dataset, FeatureStore
from pipeline.errors import NoDataError, NotFoundError
from pipeline.events import Event, Note, OnEvent, StageStarted, ignore
from pipeline.products import Vectors, embedding_products
from pipeline.products.backbone import backbones_named
from pipeline.recipe import Recipe, parse_recipe
from pipeline.settings import Settings
from pipeline.storage.backend_local import LocalBackend

if TYPE_CHECKING:
    from probe.index.stage import SearchIndex


def query_vector(
    video: Path, index: SearchIndex, ds: Dataset, settings: Settings, on_event: OnEvent = ignore
) -> np.ndarray:
    """Return the raw vector of a new video, as :meth:`probe.index.stage.SearchIndex.search` takes it.

    Parameters
    ----------
    video : Path
    index : SearchIndex
        Says which crops, features and embedding its vectors were made of.
    ds : Dataset
        That the index belongs to; remembers the recipe, holds the model.
    settings : Settings
        Where weights are looked for, and the device.
    on_event : callable

    Returns
    -------
    ndarray of shape (1, D), float32

    Raises
    ------
    NotFoundError
        If there is no such file, or the store does not remember the recipe.
    NoDataError
        If no crop of the video can be used; with the reason.
    """
    if not video.is_file():
        raise NotFoundError(f"expected a video at {video}, found no such file")
    recipe = recipe_for(ds, index)
    with tempfile.TemporaryDirectory(prefix="scale-query-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        (data / f"query{video.suffix}").symlink_to(video.resolve())
        update = {"data": data, "recipe_dir": settings.recipe_dir or settings.data or data_folder(ds)}
        own = settings.model_copy(update=update)
        store = FeatureStore.create(LocalBackend(Path(folder) / "store"))  # no place of the user's
        return _through_the_stages(recipe, store, own, index, ds, on_event)


def _through_the_stages(
    recipe: Recipe, store: FeatureStore, settings: Settings, index: SearchIndex, ds: Dataset, on_event: OnEvent
) -> np.ndarray:
    from extract import plan_catalog, plan_extract, run_catalog, run_extract

    # Stages of a store that is thrown away: that they catalogue and extract there is nobody's business.
    warn = _warnings_of(on_event)
    on_event(StageStarted("search", 0, "videos", "looking at the video as the index saw the stored ones"))
    run_catalog(plan_catalog(recipe, store, settings), store, settings, warn)
    for name in backbones_named(recipe):
        _copy_model(ds, store, name)
    run_extract(plan_extract(recipe, store, settings), store, settings, warn)
    if recipe.embed:
        from aggregate.stage import plan_embed, run_embed

        for name in recipe.trainings:
            _copy_model(ds, store, name)
        run_embed(plan_embed(recipe, store, settings), store, settings, warn)
    own = store.dataset(ds.name)
    vectors, valid = index.source.read(own, np.arange(1))
    if not valid[0]:
        target = recipe.targets()[0]
        line = own.status(target.crops, target.feature_set).to_pylist()[0]
        raise NoDataError(f"expected a video that can be decoded, found one that is {line['status']}: {line['error']}")
    return vectors


def _warnings_of(on_event: OnEvent) -> OnEvent:
    """Let warnings through, in the name of the search; not the progress of stages."""

    def listen(event: Event) -> None:
        if isinstance(event, Note) and event.level == "warning":
            on_event(replace(event, stage="search"))

    return listen


def _copy_model(ds: Dataset, store: FeatureStore, name: str) -> None:
    model = ds.artifact("models", name)
    files = {file: model.read(file) for file in model.files}
    store.dataset(ds.name).save_artifact("models", model.name, files, model.meta)


def recipe_for(ds: Dataset, index: SearchIndex) -> Recipe:
    """Return the remembered recipe, cut down to what makes one vector of this index.

    Raises
    ------
    NotFoundError
        If the feature set was made without a recipe (imported), so that nothing more can be extracted.
    """
    source = index.source
    pairs = source.feature_sets
    if not pairs:  # an index of embeddings alone: its model names what it reads
        embedded = ds.embedding_info(str(source.embedding)).fingerprint
        streams = embedded.get("streams", [embedded] if "crops" in embedded else [])
        pairs = tuple((str(one["crops"]), str(one["feature_set"])) for one in streams)
    remembered = ds.feature_info(*pairs[0]).recipe if pairs else None
    if not remembered:
        raise NotFoundError(
            f"expected the recipe of {source.label} in the store, found none (imported features?); "
            "search by --id, or extract with a recipe"
        )
    whole = parse_recipe(dict(remembered), source="the recipe in the store")
    return cut_recipe(whole, source, ds.name, pairs)


def cut_recipe(whole: Recipe, vectors: Vectors, dataset: str, features: Sequence[tuple[str, str]]) -> Recipe:
    """Return the part of a recipe that makes one vector: its feature sets, and the embedding set where one is read.

    Raises
    ------
    NotFoundError
        If the recipe does not write the embedding set, or make the features.
    """
    needed, content = list(features), whole.model_dump(mode="json", by_alias=True)
    content |= {"train": None, "models": {}, "readouts": {}, "pretrain": {}, "embed": [], "probes": [], "indexes": []}
    if vectors.embedding is not None:
        made = next((one for one in embedding_products(whole) if one.name == vectors.embedding), None)
        if made is None:
            raise NotFoundError(
                f"expected the embedding set {vectors.embedding} in the recipe that the store remembers, found none"
            )
        needed += made.sources
        spec = made.spec.model_dump(mode="json") | {"name": made.name}
        content["embed"] = [spec | ({} if made.model is None else {"models": [made.model.name]})]
        if made.model is not None:
            inputs = {"features": ["/".join(pair) for pair in made.sources], "crops": made.crops}
            model = made.model.model_dump(mode="json") | inputs | {"backbone": made.feature_set}
            content["models"] = {made.model.name: model}
    content["crops"] = {name: content["crops"][name] for name in dict.fromkeys(c for c, _ in needed)}
    targets = [t for t in whole.targets() if (t.crops, t.feature_set) in needed]
    if missing := sorted(set(needed) - {(t.crops, t.feature_set) for t in targets}):
        raise NotFoundError(
            f"expected features {'/'.join(missing[0])} in the recipe that the store remembers, found none"
        )
    content["dataset"] = {"name": dataset, "videos": "query*"}
    content["backbones"] = {
        name: content["backbones"][name]
        | {"crops": list(dict.fromkeys(t.crops for t in own)), "streams": list(dict.fromkeys(t.stream for t in own))}
        for name in dict.fromkeys(t.backbone for t in targets)
        if (own := [t for t in targets if t.backbone == name])
    }
    return parse_recipe(content, source="the recipe in the store")


def data_folder(ds: Dataset) -> Path | None:
    """Return the folder that the catalogue's videos were found in, from the first address; None where it is gone."""
    parts = (part.slice(0, 1).to_pylist() for part in ds.parts(["video_id", "uri"]))
    first: list[dict[str, Any]] = next((line for line in parts if line), [])
    if not first or not first[0]["uri"]:
        return None
    path = os.fsdecode(unquote_to_bytes(urlsplit(first[0]["uri"]).path))
    folder = path.removesuffix(first[0]["video_id"])
    return Path(folder) if folder != path and Path(folder).is_dir() else None
