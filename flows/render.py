"""What the report needs from other rooms: frames of videos for its neighbour strips, words as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import FeatureStore
from pipeline.errors import NotFoundError
from pipeline.settings import Settings

if TYPE_CHECKING:
    from extract.backbones.text_tower import TextEncoder
    from pipeline.recipe import Recipe


def probe_options(recipe: Recipe, store: FeatureStore, settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments that `run_probe` gets from outside its own room.

    Returns
    -------
    dict
        ``texts``: (feature set, words) -> vectors; ``frames``: row -> JPEG files of the video, where the dataset exists
        already.
    """
    options: dict[str, Any] = {}
    if any(probe.kind == "zero_shot" for probe in recipe.probes):
        options["texts"] = Towers(recipe, settings)
    if recipe.dataset.name in store.datasets():
        from extract.pixels.thumbnails import catalogue_thumbnails

        ds = store.dataset(recipe.dataset.name)
        options["frames"] = catalogue_thumbnails(ds.videos, settings, kept=ds.preview)
    return options


class Towers:
    """The text towers of a recipe, each loaded when it is first asked."""

    def __init__(self, recipe: Recipe, settings: Settings) -> None:
        self._recipe, self._settings = recipe, settings
        self._loaded: dict[str, TextEncoder] = {}

    def __call__(self, feature_set: str, texts: Sequence[str]) -> np.ndarray:
        """Return words as vectors of a feature set's space, (N, D) float32."""
        if feature_set not in self._loaded:
            from extract.backbones.text_tower import load_text_tower

            tower = self._recipe.text_tower(feature_set)
            if tower is None:
                raise NotFoundError(
                    f"expected a text tower of the backbone {feature_set}, found none; add `text` to it"
                )
            self._loaded[feature_set] = load_text_tower(tower, self._settings)
        return self._loaded[feature_set].encode(texts)
