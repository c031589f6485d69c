"""Videos that are in the store already."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.dataset import DatasetBase


class StoredDataset(DatasetBase):
    """The videos that the store knows, after an import say; none is looked for anywhere."""

    kind: Literal["stored"]
