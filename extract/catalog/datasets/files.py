"""Videos by globs or a manifest, with labels, splits and groups from wherever the recipe says."""

from __future__ import annotations

from extract.catalog.annotations import Annotation, annotate
from extract.catalog.datasets.rows import list_rows
from extract.catalog.find_videos import ListedVideo, list_videos
from pipeline.recipe.dataset import DatasetSpec
from pipeline.settings import Settings


@list_rows.register
def list_files(dataset: DatasetSpec, settings: Settings) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Return the rows of globs or a manifest."""
    passed_over: list[str] = []
    listed = list_videos(dataset, settings, passed_over)
    annotations = annotate(listed, dataset, settings)
    annotations.notes = (*passed_over, *annotations.notes)
    return listed, annotations
