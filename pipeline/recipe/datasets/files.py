"""Videos given by globs or by a manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pipeline.recipe.base import LATER
from pipeline.recipe.dataset import DatasetSpec


class FilesDataset(DatasetSpec):
    """Videos by globs below the data folder, or by a manifest: what a recipe means that names no kind."""

    kind: Annotated[Literal["files"], LATER] = "files"
