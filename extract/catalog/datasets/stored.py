"""Videos that are in the store already: there is nothing to list."""

from __future__ import annotations

from extract.catalog.annotations import Annotation
from extract.catalog.datasets.rows import list_rows
from extract.catalog.listed_video import ListedVideo
from pipeline.recipe.datasets.stored import StoredDataset
from pipeline.settings import Settings


@list_rows.register
def list_stored(dataset: StoredDataset, settings: Settings) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Return no rows: the catalogue has them."""
    return (), []
