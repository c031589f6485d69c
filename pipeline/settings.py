"""*Where* things run: from environment variables (``SCALE_...``) or flags, never from a recipe."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.cache import cache_folder
from pipeline.errors import InvalidInputError, NotFoundError
from pipeline.roots import check_allowed, split_roots

PROGRESS_S = 0.5
CHECKPOINT_S = 600.0
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""What a path makes of ``s3://``: one of the slashes is gone."""


class Settings(BaseSettings):
    """Where this run takes place. Flags of the `scale` command override the environment."""

    model_config = SettingsConfigDict(env_prefix="SCALE_", frozen=True, extra="ignore")

    store: str = Field(default="store", description="Folder or s3:// gs:// az:// address of the feature store")
    data: Path | None = Field(default=None, description="Folder that a recipe's video paths are relative to")
    weights: Path | None = Field(default=None, description="Folder searched first for weights files")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    workers: int = Field(default=0, ge=0, description="Decoding threads or processes; 0 picks by the number of cores")
    decoder: Literal["pyav", "torchcodec", "torchcodec-cuda"] = Field(
        default="pyav", description="What decodes; another one gives features another fingerprint"
    )
    dask: str | None = Field(default=None, description="Address of a Dask scheduler, or a number of local workers")
    cache: Path | None = Field(
        default=None, description="Folder for trainings in progress on remote stores, and for videos from elsewhere"
    )
    cache_bytes: int = Field(default=32 << 30, ge=0, description="How much videos from elsewhere may take up there")
    hosts: str | None = Field(
        default=None,
        description="Comma-separated hosts (`*.example.org`, `*`: every public one) and buckets (s3://name) that "
        "videos may be fetched from; not set: every public host and bucket, in runs that a server starts none",
    )
    resident_bytes: int | None = Field(
        default=None,
        ge=0,
        description="How much of the features a training may hold beside the model; not set: half of what is free",
    )
    checkpoint_s: float = Field(
        default=CHECKPOINT_S, ge=0, description="Seconds after which a training saves an epoch that is not over"
    )
    progress_s: float = Field(
        default=PROGRESS_S, ge=0, description="Seconds between two words about a training's progress"
    )
    tensorboard: Path | None = Field(default=None, description="Folder that training writes TensorBoard events to")
    pages: str | None = Field(
        default=None,
        description="Address of this store at `scale serve` (http://host:8500/store), for links to reports",
    )
    roots: str | None = Field(
        default=None,
        description="Comma-separated folders and addresses that recipe, store, data and weights must lie in",
    )
    recipe_dir: Path | None = Field(default=None, description="Folder of the recipe file; set by whoever loads it")

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}"
                for one in error.errors()
            )
            raise InvalidInputError(f"settings (flags, or SCALE_... in the environment): {problems}") from None

    @field_validator("data")
    @classmethod
    def _is_folder(cls, data: Path | None) -> Path | None:
        if data is not None and _ADDRESS.match(str(data)):
            raise ValueError(f"expected a folder, found {data}; write addresses into the recipe's `videos`")
        return data

    def check_places(self, recipe: Path | None = None) -> None:
        """Refuse a recipe, store, data or weights folder outside of `roots`, where there are any.

        Raises
        ------
        InvalidInputError
            Naming the place, and which are allowed.
        """
        places = {"recipe": recipe, "store": self.store, "data folder": self.data, "weights folder": self.weights}
        for what, place in places.items():
            if place is not None:
                check_allowed(place, split_roots(self.roots), what=what)

    @property
    def cache_folder(self) -> Path:
        """Where what can be made again is kept: `cache`, or the user's cache folder."""
        return cache_folder() if self.cache is None else self.cache

    def resolve_input(self, path: str, *, what: str) -> Path:
        """Find an input file that a recipe names: weights, a manifest, a split file.

        Absolute paths are taken as they are. Others are tried in the weights
        folder, the data folder, the recipe's folder and the working folder.

        Parameters
        ----------
        path : str
            As written in the recipe.
        what : str
            For the message: ``"weights of backbone x3d_xs"``.

        Raises
        ------
        NotFoundError
            Naming every place that was tried.
        """
        given = Path(path).expanduser()
        roots = split_roots(self.roots)
        folders = [f for f in (self.weights, self.data, self.recipe_dir, Path.cwd()) if f is not None]
        tried = [given] if given.is_absolute() else list(dict.fromkeys(folder / given for folder in folders))
        for candidate in tried:
            if os.path.isfile(candidate):
                check_allowed(candidate, roots, what=what)
                return candidate
        places = ", ".join(str(c) for c in tried)
        raise NotFoundError(
            f"expected the {what} at {path}, found no such file (tried {places}); "
            "give its folder with --data or --weights (or SCALE_DATA, SCALE_WEIGHTS)"
        )
