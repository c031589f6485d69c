"""Kinds of data sets, a file each (`docs/datasets.md`): globs and manifests, lists, and published ones as they come."""

from typing import Annotated

from pipeline.recipe.dataset import DatasetBase
from pipeline.recipe.datasets.base import PublishedDataset
from pipeline.recipe.kinds import Kinds

DATASETS = Kinds("scale.datasets", DatasetBase, __name__, default="files")
AnyDataset = Annotated[DatasetBase, DATASETS]

__all__ = ["DATASETS", "AnyDataset", "PublishedDataset"]
