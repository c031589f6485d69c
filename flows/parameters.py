"""What the flows take, as pydantic models: the Prefect UI turns them into forms with descriptions and choices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline import FeatureStore
from pipeline.recipe import Recipe, load_recipe
from pipeline.settings import Settings

RECIPES_DIR = Path(__file__).resolve().parent / "recipes"

RecipeName = Annotated[
    str, Field(description="Recipe: a path on the worker, or the name of a shipped one (demo, jhmdb12_mobilenet)")
]


class Where(BaseModel):
    """Where a run takes place. Empty fields come from the worker's environment (`SCALE_STORE` and so on)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: str | None = Field(None, description="Feature store: folder, or s3:// gs:// az:// address")
    data: str | None = Field(None, description="Folder that the recipe's video paths start from")
    weights: str | None = Field(None, description="Folder searched first for weights files")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the backbone runs")
    workers: int = Field(0, ge=0, description="Decoding workers; 0 picks by the number of cores")


class ExtractOptions(BaseModel):
    """Which shards, and on which engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shards: list[int] | None = Field(None, description="Only these shards, counted from 0; empty: all that are missing")
    retry_statuses: list[Literal["unreadable", "partial", "missing", "non_finite", "too_short"]] = Field(
        default_factory=list, description="Redo videos with these statuses as well"
    )
    shards_per_task: int = Field(4, ge=1, le=1024, description="Shards that one Prefect task extracts")
    dask: str | None = Field(
        None, description="Dask scheduler address, or a number of local workers to start; empty: this process"
    )


def open_run(recipe: str, where: Where, *, dask: str | None = None) -> tuple[Recipe, FeatureStore, Settings]:
    """Load the recipe, settle where to run, and open (or make) the store.

    Parameters
    ----------
    recipe : str
        Path of a recipe file, or the name of a shipped one (``demo``).
    where : Where
    dask : str, optional

    Returns
    -------
    tuple of Recipe, FeatureStore, Settings
    """
    path = find_recipe(recipe)
    given = {name: value for name, value in where.model_dump().items() if value is not None}
    if dask is not None:
        given["dask"] = dask
    settings = Settings(**given, recipe_dir=path.resolve().parent)
    return load_recipe(path), FeatureStore.open_or_create(settings.store), settings


def find_recipe(recipe: str) -> Path:
    """Return the path of a recipe: a file, or the name of a shipped one."""
    shipped = RECIPES_DIR / f"{recipe}.yaml"
    if not Path(recipe).is_file() and Path(recipe).name == recipe and shipped.is_file():
        return shipped
    return Path(recipe)
