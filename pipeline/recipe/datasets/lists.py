"""Plain lists, and folders of extracted frames."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.recipe.dataset import DatasetBase


class ListDataset(DatasetBase):
    """Plain lists without a header, one video a line: `path label`."""

    kind: Literal["list"]
    videos: str = "."
    """Folder that the paths of the lists are relative to."""
    lists: dict[Literal["train", "val", "test", "none"], str | list[str]] = Field(min_length=1)
    """Side -> list(s); `none` for lists that divide nothing."""
    separator: Literal["space", "comma", "tab", "semicolon"] = "space"
    """What stands between the columns. A path may hold spaces: the columns after it are split off from the right."""
    columns: tuple[Literal["path", "label", "labels", "start_s", "end_s", "group", "-"], ...] = ("path", "label")
    """What the columns are, `path` first; `-` is passed over."""
    classes: str | None = None
    """File of the names of classes, one a line, with or without a number before; the lists then hold numbers."""
    split: str = "1"
    absent: Literal["row", "skip"] = "row"
    """As for published data sets."""


class RawframesDataset(DatasetBase):
    """Folders of extracted frames, as mmaction lays them out: `img_00001.jpg`, `flow_x_00001.jpg`, `flow_y_...`."""

    kind: Literal["rawframes"]
    videos: str = "rawframes"
    """Folder of the folders."""
    lists: dict[Literal["train", "val", "test", "none"], str | list[str]] | None = None
    """Side -> list(s) of `folder number-of-frames label`; None: every folder of frames, its parent's name the label."""
    classes: str | None = None
    """File of the names of classes; see `list`."""
    stem: str = Field("img_", min_length=1, max_length=64)
    """Which images are the frames: the part of their names before the number. Each stem is a stream of its own."""
    fps: float = Field(30.0, gt=0, le=1000)
    """Frames a second when they were extracted."""
    split: str = "1"
    absent: Literal["row", "skip"] = "row"
    """As for published data sets."""
