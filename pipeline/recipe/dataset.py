"""Which videos, with which labels, splits and groups."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.base import LATER, Name, Spec


class NoLabels(Spec):
    """Videos without labels."""

    source: Literal["none"] = Field("none", alias="from")


class FolderValues(Spec):
    """The name of the video's parent folder."""

    source: Literal["folder"] = Field(alias="from")


class ColumnValues(Spec):
    """A column of the manifest."""

    source: Literal["column"] = Field(alias="from")
    column: str


class RegexValues(Spec):
    """The first group of a regular expression searched in the video's path (relative, with ``/``)."""

    source: Literal["regex"] = Field(alias="from")
    pattern: str


class CsvValues(Spec):
    """A CSV or Parquet file with a `path` (or `video_id`) column and further columns."""

    source: Literal["csv"] = Field(alias="from")
    path: str
    column: str = "label"


class CsvSplits(Spec):
    """Splits from a CSV or Parquet file: `path` (or `video_id`) plus one column a split, values train/val/test."""

    source: Literal["csv"] = Field(alias="from")
    path: str
    columns: dict[str, str] | None = None
    """Split name -> column; None: every column named `split<name>` becomes the split `<name>`, `split` becomes "1"."""
    values: Annotated[dict[str, Literal["train", "val", "test", "none"]] | None, LATER] = None
    """What other words in those columns mean, such as `{"0": none, "1": train, "2": test}`."""


class ColumnSplits(Spec):
    """Splits from columns of the manifest."""

    source: Literal["columns"] = Field(alias="from")
    columns: dict[str, str] | None = None
    """Split name -> column; None: as for CsvSplits."""
    values: Annotated[dict[str, Literal["train", "val", "test", "none"]] | None, LATER] = None
    """As for CsvSplits."""


class FolderSplits(Spec):
    """One split "1": the first path component that is train, val or test."""

    source: Literal["folder"] = Field(alias="from")


class RandomSplits(Spec):
    """One split "1" drawn by group: a hash of (seed, group) decides, so that appended videos keep their side."""

    source: Literal["random"] = Field(alias="from")
    test_fraction: float = Field(0.3, gt=0, lt=1)
    seed: int = 0


class NoSplits(Spec):
    """No splits; probes then have nothing to measure."""

    source: Literal["none"] = Field("none", alias="from")


LabelSource = Annotated[NoLabels | FolderValues | ColumnValues | RegexValues | CsvValues, Field(discriminator="source")]
SplitSource = Annotated[
    NoSplits | CsvSplits | ColumnSplits | FolderSplits | RandomSplits, Field(discriminator="source")
]


class DatasetBase(Spec):
    """What all kinds of data sets share; each is a file here in `datasets/` and one in `extract/catalog/datasets/`."""

    name: Name
    shard_rows: int = Field(256, ge=1, le=65536)
    """Videos a shard; fixed when the dataset is created."""


class DatasetSpec(DatasetBase):
    """A named collection of videos: by globs, or by a manifest."""

    videos: str | list[str]
    """Glob(s) below the data folder, or one manifest (.csv, .parquet) with a `path` column."""
    labels: LabelSource = NoLabels.model_validate({"from": "none"})
    label_separator: str | None = None
    """Set for multi-label data: `a;b` becomes the labels a and b."""
    splits: SplitSource = NoSplits.model_validate({"from": "none"})
    group: LabelSource = NoLabels.model_validate({"from": "none"})
    """Videos cut from one source share a group; `none`: every file is a group of its own."""
    ignore: Annotated[list[str], LATER] = Field(default_factory=list)
    """Columns of the manifest to pass over although their names speak of times (start, time_end, frame ...)."""
    image_fps: Annotated[float, LATER] = Field(30.0, gt=0, le=1000)
    """Frame rate of folders of images, which have none of their own."""
