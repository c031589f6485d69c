"""From the section `dataset` of a recipe to its rows: one file a kind, found by its folder (`docs/datasets.md`)."""

from extract.catalog.datasets.rows import Record, image_fps_of, list_rows
from pipeline.recipe.kinds import load_modules

load_modules(__name__)

__all__ = ["Record", "image_fps_of", "list_rows"]
