"""A video that is not in the store, seen exactly as the index saw the stored ones.

It goes through extraction (and, for an embedding index, through the stored
model) in a small store of its own, with the recipe that the feature set remembers.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np

from pipeline import Dataset, FeatureStore
from pipeline.errors import NoDataError, NotFoundError
from pipeline.events import OnEvent, ignore
from pipeline.recipe import Recipe, parse_recipe
from pipeline.settings import Settings

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
        store = FeatureStore.create(str(Path(folder) / "store"))
        return _through_the_stages(recipe, store, own, index, ds, on_event)


def _through_the_stages(
    recipe: Recipe, store: FeatureStore, settings: Settings, index: SearchIndex, ds: Dataset, on_event: OnEvent
) -> np.ndarray:
    from extract import plan_catalog, plan_extract, run_catalog, run_extract

    run_catalog(plan_catalog(recipe, store, settings), store, settings, on_event)
    run_extract(plan_extract(recipe, store, settings), store, settings, on_event)
    if recipe.embed:
        from aggregate.stage import plan_embed, run_embed

        own = store.dataset(ds.name)
        model = ds.artifact("models", index_model(recipe))
        own.save_artifact("models", model.name, {name: model.read(name) for name in model.files}, model.meta)
        run_embed(plan_embed(recipe, store, settings), store, settings, on_event)
    own = store.dataset(ds.name)
    vectors, valid = index.source.read(own, np.arange(1))
    if not valid[0]:
        target = recipe.targets()[0]
        line = own.status(target.crops, target.feature_set).to_pylist()[0]
        raise NoDataError(f"expected a video that can be decoded, found one that is {line['status']}: {line['error']}")
    return vectors


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
        if "crops" in embedded:
            pairs = ((str(embedded["crops"]), str(embedded["feature_set"])),)
    remembered = ds.feature_info(*pairs[0]).recipe if pairs else None
    if not remembered:
        raise NotFoundError(
            f"expected the recipe of {source.label} in the store, found none (imported features?); "
            "search by --id, or extract with a recipe"
        )
    whole = parse_recipe(dict(remembered), source="the recipe in the store")
    targets = [t for t in whole.targets() if (t.crops, t.feature_set) in pairs]
    content: dict[str, Any] = whole.model_dump(mode="json", by_alias=True)
    backbones = {}
    for name in dict.fromkeys(t.backbone for t in targets):
        seen = {"crops": [t.crops for t in targets if t.backbone == name]}
        seen["streams"] = [t.stream for t in targets if t.backbone == name]
        backbones[name] = content["backbones"][name] | {k: list(dict.fromkeys(v)) for k, v in seen.items()}
    content |= {
        "dataset": {"name": ds.name, "videos": "query*"},
        "crops": {crops: content["crops"][crops] for crops, _ in pairs},
        "backbones": backbones,
        "readouts": {},
        "probes": [],
        "indexes": [],
        "embed": [],
    }
    if source.readout not in ("cls", "joined"):
        content["train"] = None
    else:
        content["embed"] = [_embed_spec(whole, str(source.embedding))]
        content["crops"] |= {whole.train.crops: _dump(whole)["crops"][whole.train.crops]} if whole.train else {}
    return parse_recipe(content, source="the recipe in the store")


def _dump(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", by_alias=True)


def _embed_spec(recipe: Recipe, name: str) -> dict[str, Any]:
    for spec in recipe.embed:
        if (spec.name or (recipe.train.name if recipe.train else None)) == name:
            return spec.model_dump(mode="json")
    raise NotFoundError(f"expected the embedding set {name} in the recipe that the store remembers, found none")


def index_model(recipe: Recipe) -> str:
    """Return the name of the model that embeds."""
    assert recipe.train is not None  # the recipe model checks that embed comes with train
    return recipe.train.name


def data_folder(ds: Dataset) -> Path | None:
    """Return the folder that the catalogue's videos were found in, from the first address; None where it is gone."""
    first = ds.videos.slice(0, 1).to_pylist()
    if not first or not first[0]["uri"]:
        return None
    path = os.fsdecode(unquote_to_bytes(urlsplit(first[0]["uri"]).path))
    folder = path.removesuffix(first[0]["video_id"])
    return Path(folder) if folder != path and Path(folder).is_dir() else None
